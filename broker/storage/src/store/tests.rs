#![allow(clippy::unwrap_used)]
use super::*;

fn open(dir: &Path) -> StateStore {
    StateStore::open(dir, StoreOptions::default()).unwrap()
}

fn batch(pairs: &[(&'static str, Option<&'static str>)]) -> StoreBatch {
    let mut batch = StoreBatch::default();
    for (key, value) in pairs {
        match value {
            Some(value) => batch.put(*key, *value),
            None => batch.delete(*key),
        }
    }
    batch
}

fn all(pairs: Pairs) -> Vec<(String, String)> {
    pairs
        .map(|pair| {
            let (key, value) = pair.unwrap();
            (String::from_utf8(key.to_vec()).unwrap(), String::from_utf8(value.to_vec()).unwrap())
        })
        .collect()
}

fn strings(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn changes_and_the_applied_marker_survive_together() {
    let dir = tempfile::tempdir().unwrap();
    let (meta, other) = (GroupId::new(1, 0), GroupId::new(1, 1));
    {
        let store = open(dir.path());
        let group = store.group(meta).unwrap();
        assert_eq!(group.applied().unwrap(), None);
        assert_eq!(group.sync().unwrap(), None);
        group.apply(batch(&[("a/1", Some("x")), ("a/2", Some("y")), ("b", Some("z"))]), "one".into()).unwrap();
        group.apply(batch(&[("a/1", None), ("", Some("empty key"))]), "two".into()).unwrap();
        assert_eq!(group.sync().unwrap().unwrap(), "two");
        store.group(other).unwrap().apply(batch(&[("b", Some("other"))]), "ten".into()).unwrap();
    }
    let store = open(dir.path());
    assert_eq!(store.groups().unwrap(), [meta, other]);
    let group = store.group(meta).unwrap();
    assert_eq!(group.applied().unwrap().unwrap(), "two");
    assert_eq!(group.get(b"a/1").unwrap(), None);
    assert_eq!(group.get(b"a/2").unwrap().unwrap(), "y");
    assert_eq!(all(group.scan(b"a/")), strings(&[("a/2", "y")]));
    assert_eq!(all(group.scan(b"")), strings(&[("", "empty key"), ("a/2", "y"), ("b", "z")]));
    assert_eq!(all(store.group(other).unwrap().scan(b"")), strings(&[("b", "other")]));
}

#[test]
fn a_view_is_of_one_moment_and_is_read_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = store.group(GroupId::new(1, 0)).unwrap();
    group.apply(batch(&[("a", Some("1")), ("b", Some("2")), ("c", Some("3"))]), "old".into()).unwrap();
    let view = group.view().unwrap();
    group.apply(batch(&[("b", None), ("d", Some("4"))]), "new".into()).unwrap();
    let mut staged = group.stage().unwrap();
    staged.put(b"z", b"26").unwrap();
    staged.install("newest".into()).unwrap();
    assert_eq!(view.applied().unwrap(), "old");
    assert_eq!(view.get(b"b").unwrap().unwrap(), "2");
    assert_eq!(all(view.pairs(None)), strings(&[("a", "1"), ("b", "2"), ("c", "3")]));
    assert_eq!(all(view.pairs(Some(b"a"))), strings(&[("b", "2"), ("c", "3")]));
    assert_eq!(all(view.pairs(Some(b"c"))), []);
    assert_eq!(all(group.scan(b"")), strings(&[("z", "26")]));
}

#[test]
fn a_reader_sees_what_is_applied_and_not_what_is_installed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = store.group(GroupId::new(1, 0)).unwrap();
    let reader = group.reader().unwrap();
    group.apply(batch(&[("a", Some("1")), ("b", Some("2")), ("c", Some("3"))]), "old".into()).unwrap();
    let range = |from: &str, to: &str, limit| -> Vec<String> {
        let pairs = reader.range(from.as_bytes(), to.as_bytes(), limit).unwrap();
        pairs.into_iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect()
    };
    assert_eq!(range("a", "c", 9), ["a", "b"]);
    assert_eq!(range("", "zz", 2), ["a", "b"]);
    assert_eq!(range("bb", "zz", 9), ["c"]);
    assert!(range("c", "a", 9).is_empty() && range("a", "a", 9).is_empty() && range("a", "z", 0).is_empty());
    assert_eq!(reader.get(b"c").unwrap().unwrap(), "3");
    let mut staged = group.stage().unwrap();
    staged.put(b"a", b"26").unwrap();
    staged.install("new".into()).unwrap();
    assert_eq!((reader.get(b"a").unwrap().unwrap(), group.get(b"a").unwrap().unwrap()), ("1".into(), "26".into()));
    assert_eq!(group.reader().unwrap().range(b"", b"z", 9).unwrap(), [("a".into(), "26".into())]);
}

#[test]
fn an_installed_state_replaces_the_old_one_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let id = GroupId::new(2, 0);
    {
        let store = open(dir.path());
        let group = store.group(id).unwrap();
        let same = group.clone();
        group.apply(batch(&[("old", Some("1"))]), "five".into()).unwrap();
        let mut staged = group.stage().unwrap();
        let value = vec![b'v'; 1000];
        for number in 0..2000u32 {
            staged.put(&number.to_be_bytes(), &value).unwrap();
        }
        assert_eq!(all(same.scan(b"")), strings(&[("old", "1")]), "nothing is seen before");
        staged.install("nine".into()).unwrap();
        assert_eq!(same.applied().unwrap().unwrap(), "nine");
        assert_eq!(same.scan(b"").count(), 2000);
        assert_eq!(same.get(b"old").unwrap(), None);
        same.apply(batch(&[("after", Some("1"))]), "ten".into()).unwrap();
    }
    let store = open(dir.path());
    let group = store.group(id).unwrap();
    assert_eq!(group.applied().unwrap().unwrap(), "ten");
    assert_eq!(group.scan(b"").count(), 2001);
    assert_eq!(store.shared.db.keyspace_count(), 2, "catalog and the group");
}

#[test]
fn a_staged_state_that_is_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let id = GroupId::new(2, 0);
    {
        let store = open(dir.path());
        let group = store.group(id).unwrap();
        group.apply(batch(&[("old", Some("1"))]), "five".into()).unwrap();
        let mut staged = group.stage().unwrap();
        staged.put(b"new", b"1").unwrap();
        drop(staged);
        // As after a crash within an install: the keyspace is there, and nothing removes it.
        let (leftover, _) = store.shared.stage(id).unwrap();
        leftover.insert("kleft", "over").unwrap();
        store.shared.db.persist(PersistMode::SyncAll).unwrap();
    }
    let store = open(dir.path());
    assert_eq!(store.shared.db.keyspace_count(), 2, "catalog and the group");
    let group = store.group(id).unwrap();
    assert_eq!(group.applied().unwrap().unwrap(), "five");
    let mut staged = group.stage().unwrap();
    staged.put(b"fresh", b"1").unwrap();
    staged.install("six".into()).unwrap();
    assert_eq!(all(group.scan(b"")), strings(&[("fresh", "1")]), "no leftover is met again");
}

#[test]
fn a_dropped_group_is_empty_when_it_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let id = GroupId::new(7, 3);
    let store = open(dir.path());
    let group = store.group(id).unwrap();
    group.apply(batch(&[("a", Some("1"))]), "one".into()).unwrap();
    let staged = group.stage().unwrap();
    store.drop_group(id).unwrap();
    assert!(matches!(group.get(b"a"), Err(StoreError::Dropped(_))));
    assert!(matches!(staged.install("two".into()), Err(StoreError::Dropped(_))));
    assert_eq!(store.groups().unwrap(), []);
    let group = store.group(id).unwrap();
    assert_eq!(group.applied().unwrap(), None);
    assert_eq!(group.scan(b"").count(), 0);
    drop(store);
}

#[test]
fn keys_that_are_too_long_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = store.group(GroupId::new(1, 0)).unwrap();
    let mut batch = batch(&[("a", Some("1"))]);
    batch.put(vec![b'x'; MAX_KEY + 1], "1");
    assert!(matches!(group.apply(batch, "one".into()), Err(StoreError::Key(_))));
    assert_eq!(group.applied().unwrap(), None);
    let mut batch = StoreBatch::default();
    batch.put(vec![b'x'; MAX_KEY], "1");
    group.apply(batch, "one".into()).unwrap();
    assert_eq!(group.get(&[b'x'; MAX_KEY]).unwrap().unwrap(), "1");
}

/// What a crash leaves: the files as they are, but the end of the newest journal as `tear` makes it.
fn crashed(from: &Path, tear: impl FnOnce(&mut [u8])) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to);
            } else if to.extension().is_none_or(|extension| extension != "jnl") {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    copy(from, dir.path());
    let journal = Path::new("state/0.jnl");
    // Most of the file is reserved room.
    let mut bytes = Vec::new();
    let file = std::fs::File::open(from.join(journal)).unwrap();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, 256 << 10), &mut bytes).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    assert!(end < bytes.len());
    bytes.truncate(end);
    tear(&mut bytes);
    std::fs::write(dir.path().join(journal), bytes).unwrap();
    let file = std::fs::File::options().write(true).open(dir.path().join(journal)).unwrap();
    file.set_len(64 << 20).unwrap();
    dir
}

#[test]
fn after_a_crash_the_state_is_the_one_that_the_applied_marker_says() {
    let dir = tempfile::tempdir().unwrap();
    let id = GroupId::new(3, 0);
    let store = open(dir.path());
    let group = store.group(id).unwrap();
    for number in 0..50 {
        let text = number.to_string();
        let mut batch = StoreBatch::default();
        batch.put("a", text.clone());
        batch.put(format!("k{number}"), vec![7; 300]);
        // Long enough to be stored compressed, and something removed.
        batch.put("long", vec![number as u8; 9000]);
        batch.delete("gone");
        group.apply(batch, text.into()).unwrap();
    }
    let look = |dir: &Path| {
        let store = open(dir);
        let group = store.group(id).unwrap();
        let applied: u32 = String::from_utf8(group.applied().unwrap().unwrap().to_vec()).unwrap().parse().unwrap();
        assert_eq!(group.get(b"a").unwrap().unwrap(), applied.to_string());
        assert_eq!(group.scan(b"k").count() as u32, applied + 1);
        // It can be used on.
        group.apply(batch(&[("after", Some("the crash"))]), "99".into()).unwrap();
        drop((group, store));
        let store = open(dir);
        assert_eq!(store.group(id).unwrap().applied().unwrap().unwrap(), "99");
        applied
    };
    let whole = crashed(dir.path(), |_| {});
    assert_eq!(journal::cut_torn_end(&whole.path().join("state")).unwrap(), 0, "fjall's format is what is expected");
    assert_eq!(look(whole.path()), 49, "nothing is lost when only the process dies");
    let mut cuts = Vec::new();
    for cut in [1, 20, 90, 300, 500, 1000, 3000] {
        cuts.push(look(
            crashed(dir.path(), |journal| {
                let from = journal.len().saturating_sub(cut);
                journal[from..].fill(0);
            })
            .path(),
        ));
    }
    assert!(cuts.is_sorted_by(|more, less| more >= less) && cuts[6] < 48, "{cuts:?}");
    // Holes, as when some pages were written and others not.
    for hole in [5, 40, 200, 350, 700, 2000, 5000] {
        for len in [1, 16, 512] {
            let applied = look(
                crashed(dir.path(), |journal| {
                    let from = journal.len() - hole;
                    let to = (from + len).min(journal.len());
                    journal[from..to].iter_mut().for_each(|byte| *byte ^= 0x55);
                })
                .path(),
            );
            assert!((20..49).contains(&applied), "hole of {len} at {hole}: {applied}");
        }
    }
}
