//! Cutting the unfinished end of fjall's journal before fjall reads it.
//!
//! Applying is not synced, so a power failure may leave any part of the pages behind the last sync. fjall cuts a batch
//! that ends early, but refuses to open when one has a hole in it, and the nodes of a cluster may lose power together. What is behind
//! the last sync is not needed (the log has it), so everything from the first batch on that is not whole is cut here.
//!
//! This knows the journal's format (magic `FJL` 3): a batch is a start (tag 1, number of items u32, sequence u64), its
//! items (tag 2: kind u8, compression u8, keyspace u64, key length u16, value length u32, stored length u32, key, value; tag 4:
//! keyspace u64) and an end (tag 3, XXH3 of the items u64, magic). A test holds it against what fjall writes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::Xxh3;

const MAGIC: [u8; 4] = [b'F', b'J', b'L', 3];

/// Cuts the newest journal of the store behind its last whole batch. Older ones were synced when they were ended. Returns the bytes cut.
pub(crate) fn cut_torn_end(dir: &Path) -> io::Result<u64> {
    let Some(path) = newest(dir)? else {
        return Ok(0);
    };
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let len = file.metadata()?.len();
    let whole = whole_batches(&file)?;
    let written = written(&file, whole, len)?;
    if written > whole {
        // fjall reserves by length only; as it does itself, the rest is not made again.
        file.set_len(whole)?;
        file.sync_all()?;
    }
    Ok(written - whole)
}

fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let number = path.extension().is_some_and(|extension| extension == "jnl").then(|| path.file_stem());
        let number = number.flatten().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if number.is_some() && number > newest.as_ref().map(|(number, _)| *number) {
            newest = number.map(|number| (number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Where the last whole batch ends.
fn whole_batches(file: &File) -> io::Result<u64> {
    let mut input = Input { reader: BufReader::with_capacity(1 << 18, file), at: 0, hash: Xxh3::new() };
    let mut whole = 0;
    loop {
        match input.batch() {
            Ok(true) => whole = input.at,
            Ok(false) => return Ok(whole),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(whole),
            Err(error) => return Err(error),
        }
    }
}

/// Where the last byte from `from` on that is not zero ends; `from` when there is none.
fn written(file: &File, from: u64, len: u64) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; 1 << 18];
    let zeros = vec![0; buffer.len()];
    let (mut at, mut written) = (from, from);
    while at < len {
        let count = file.read_at(&mut buffer, at)?;
        if count == 0 {
            break;
        }
        // Most of it is reserved room: compared as a whole, it is passed at the speed of the memory.
        if buffer[..count] != zeros[..count]
            && let Some(last) = buffer[..count].iter().rposition(|byte| *byte != 0)
        {
            written = at + last as u64 + 1;
        }
        at += count as u64;
    }
    Ok(written)
}

struct Input<'a> {
    reader: BufReader<&'a File>,
    at: u64,
    hash: Xxh3,
}

impl Input<'_> {
    /// Reads a batch; `false` when what is there is none.
    fn batch(&mut self) -> io::Result<bool> {
        let [1] = self.take()? else { return Ok(false) };
        let items = u32::from_le_bytes(self.take()?);
        self.take::<8>()?;
        self.hash.reset();
        for _ in 0..items {
            if !self.item()? {
                return Ok(false);
            }
        }
        let [3] = self.take()? else { return Ok(false) };
        let found = self.hash.digest();
        Ok(u64::from_le_bytes(self.take()?) == found && self.take()? == MAGIC)
    }

    fn item(&mut self) -> io::Result<bool> {
        match self.hashed()? {
            [2] => {
                let [_kind, compression] = self.hashed()?;
                self.hashed::<8>()?;
                let key = u64::from(u16::from_le_bytes(self.hashed()?));
                let value = u32::from_le_bytes(self.hashed()?);
                let stored = u32::from_le_bytes(self.hashed()?);
                if compression > 1 || (compression == 0 && value != stored) {
                    return Ok(false);
                }
                self.skip(key + u64::from(stored))?;
            }
            [4] => drop(self.hashed::<8>()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn skip(&mut self, mut count: u64) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while count > 0 {
            let part = count.min(buffer.len() as u64) as usize;
            self.reader.read_exact(&mut buffer[..part])?;
            self.hash.update(&buffer[..part]);
            self.at += part as u64;
            count -= part as u64;
        }
        Ok(())
    }

    fn hashed<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let bytes = self.take()?;
        self.hash.update(&bytes);
        Ok(bytes)
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }
}
