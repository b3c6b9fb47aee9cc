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
            (
                String::from_utf8(key.to_vec()).unwrap(),
                String::from_utf8(value.to_vec()).unwrap(),
            )
        })
        .collect()
}

fn strings(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
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
        group
            .apply(
                batch(&[("a/1", Some("x")), ("a/2", Some("y")), ("b", Some("z"))]),
                "one".into(),
            )
            .unwrap();
        group
            .apply(
                batch(&[("a/1", None), ("", Some("empty key"))]),
                "two".into(),
            )
            .unwrap();
        assert_eq!(group.sync().unwrap().unwrap(), "two");
        store
            .group(other)
            .unwrap()
            .apply(batch(&[("b", Some("other"))]), "ten".into())
            .unwrap();
    }
    let store = open(dir.path());
    assert_eq!(store.groups().unwrap(), [meta, other]);
    let group = store.group(meta).unwrap();
    assert_eq!(group.applied().unwrap().unwrap(), "two");
    assert_eq!(group.get(b"a/1").unwrap(), None);
    assert_eq!(group.get(b"a/2").unwrap().unwrap(), "y");
    assert_eq!(all(group.scan(b"a/")), strings(&[("a/2", "y")]));
    assert_eq!(
        all(group.scan(b"")),
        strings(&[("", "empty key"), ("a/2", "y"), ("b", "z")])
    );
    assert_eq!(
        all(store.group(other).unwrap().scan(b"")),
        strings(&[("b", "other")])
    );
}

#[test]
fn a_view_is_of_one_moment_and_is_read_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let group = store.group(GroupId::new(1, 0)).unwrap();
    group
        .apply(
            batch(&[("a", Some("1")), ("b", Some("2")), ("c", Some("3"))]),
            "old".into(),
        )
        .unwrap();
    let view = group.view().unwrap();
    group
        .apply(batch(&[("b", None), ("d", Some("4"))]), "new".into())
        .unwrap();
    let mut staged = group.stage().unwrap();
    staged.put(b"z", b"26").unwrap();
    staged.install("newest".into()).unwrap();
    assert_eq!(view.applied().unwrap(), "old");
    assert_eq!(view.get(b"b").unwrap().unwrap(), "2");
    assert_eq!(
        all(view.pairs(None)),
        strings(&[("a", "1"), ("b", "2"), ("c", "3")])
    );
    assert_eq!(
        all(view.pairs(Some(b"a"))),
        strings(&[("b", "2"), ("c", "3")])
    );
    assert_eq!(all(view.pairs(Some(b"c"))), []);
    assert_eq!(all(group.scan(b"")), strings(&[("z", "26")]));
}

#[test]
fn an_installed_state_replaces_the_old_one_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let id = GroupId::new(2, 0);
    {
        let store = open(dir.path());
        let group = store.group(id).unwrap();
        let same = group.clone();
        group
            .apply(batch(&[("old", Some("1"))]), "five".into())
            .unwrap();
        let mut staged = group.stage().unwrap();
        let value = vec![b'v'; 1000];
        for number in 0..2000u32 {
            staged.put(&number.to_be_bytes(), &value).unwrap();
        }
        assert_eq!(
            all(same.scan(b"")),
            strings(&[("old", "1")]),
            "nothing is seen before"
        );
        staged.install("nine".into()).unwrap();
        assert_eq!(same.applied().unwrap().unwrap(), "nine");
        assert_eq!(same.scan(b"").count(), 2000);
        assert_eq!(same.get(b"old").unwrap(), None);
        same.apply(batch(&[("after", Some("1"))]), "ten".into())
            .unwrap();
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
        group
            .apply(batch(&[("old", Some("1"))]), "five".into())
            .unwrap();
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
    assert_eq!(
        all(group.scan(b"")),
        strings(&[("fresh", "1")]),
        "no leftover is met again"
    );
}

#[test]
fn a_dropped_group_is_empty_when_it_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let id = GroupId::new(7, 3);
    let store = open(dir.path());
    let group = store.group(id).unwrap();
    group
        .apply(batch(&[("a", Some("1"))]), "one".into())
        .unwrap();
    let staged = group.stage().unwrap();
    store.drop_group(id).unwrap();
    assert!(matches!(group.get(b"a"), Err(StoreError::Dropped(_))));
    assert!(matches!(
        staged.install("two".into()),
        Err(StoreError::Dropped(_))
    ));
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
    assert!(matches!(
        group.apply(batch, "one".into()),
        Err(StoreError::Key(_))
    ));
    assert_eq!(group.applied().unwrap(), None);
    let mut batch = StoreBatch::default();
    batch.put(vec![b'x'; MAX_KEY], "1");
    group.apply(batch, "one".into()).unwrap();
    assert_eq!(group.get(&[b'x'; MAX_KEY]).unwrap().unwrap(), "1");
}

/// What a kill leaves: the files as they are, less `cut` bytes of what was written to the newest journal.
fn killed(from: &Path, cut: usize) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    copy(from, dir.path());
    let journals = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let newest = journals
        .filter(|path| path.extension().is_some_and(|extension| extension == "jnl"))
        .max()
        .unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    let end = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at + 1);
    bytes[end.saturating_sub(cut)..].fill(0);
    std::fs::write(&newest, bytes).unwrap();
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
        group.apply(batch, text.into()).unwrap();
    }
    let mut found = Vec::new();
    for cut in [0, 1, 20, 90, 300, 500, 1000, 3000] {
        let copy = killed(dir.path(), cut);
        let store = open(copy.path());
        let group = store.group(id).unwrap();
        let applied: u32 = String::from_utf8(group.applied().unwrap().unwrap().to_vec())
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(group.get(b"a").unwrap().unwrap(), applied.to_string());
        assert_eq!(group.scan(b"k").count() as u32, applied + 1);
        found.push(applied);
    }
    assert_eq!(found[0], 49, "nothing is lost when only the process dies");
    assert!(
        found.is_sorted_by(|more, less| more >= less) && found[7] < 48,
        "{found:?}"
    );
}
