//! Small files that survive a crash as a whole.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// What such a file may be at most, so that a damaged directory cannot fill the memory.
const MAX_BYTES: u64 = 64 << 20;
const MAGIC: &[u8; 4] = b"RMQF";
const FORMAT: u32 = 1;
const HEADER: usize = 20;

/// A small file that is replaced as a whole: after a crash it has the old or the new content, never a mixture.
///
/// The content carries a checksum; a damaged file is an error of kind [`io::ErrorKind::InvalidData`], not an empty one.
#[derive(Debug, Clone)]
pub struct AtomicFile {
    path: PathBuf,
}

impl AtomicFile {
    /// Names the file. Nothing is read or made yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content, or `None` when the file was never written.
    ///
    /// # Errors
    /// What the file system says; `InvalidData` with the file's name when the content is damaged.
    pub fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        match content(&bytes) {
            Ok(content) => Ok(Some(content.to_vec())),
            Err(reason) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("{}: {reason}", self.path.display())))
            }
        }
    }

    /// Replaces the content. When it returns, the new content is on the disk.
    ///
    /// # Errors
    /// What the file system says. After an error the file has the old or the new content; whether it is durable is
    /// unknown, so that the caller should not go on as if it knew.
    pub fn write(&self, content: &[u8]) -> io::Result<()> {
        if content.len() as u64 > MAX_BYTES - HEADER as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{}: {} bytes are too many", self.path.display(), content.len()),
            ));
        }
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        let temporary = PathBuf::from(name);
        let mut file = File::create(&temporary)?;
        file.write_all(&header(content))?;
        file.write_all(content)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, &self.path)?;
        sync_parent(&self.path)
    }

    /// Removes the file durably; that it does not exist is no error.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Ok(()) => sync_parent(&self.path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn header(content: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(MAGIC);
    header[4..8].copy_from_slice(&FORMAT.to_le_bytes());
    header[8..16].copy_from_slice(&(content.len() as u64).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..16]), content);
    header[16..].copy_from_slice(&crc.to_le_bytes());
    header
}

fn content(bytes: &[u8]) -> Result<&[u8], String> {
    let Some((head, content)) = bytes.split_at_checked(HEADER) else {
        return Err(format!("{} bytes are too few", bytes.len()));
    };
    if &head[..4] != MAGIC {
        return Err("not a file of this kind".to_owned());
    }
    if head == header(content) {
        return Ok(content);
    }
    let format = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    if format != FORMAT {
        return Err(format!("format {format} is not known (or the file is damaged)"));
    }
    Err("the checksum does not fit: the file is damaged".to_owned())
}

/// Makes a directory, and those above it that are missing, durably.
///
/// # Errors
/// What the file system says.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    if !dir.is_dir() {
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            make_dir(parent)?;
        }
        match fs::create_dir(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    // Also when it was there: the process that made it may have died before this.
    sync_parent(dir)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn content_comes_back_and_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = AtomicFile::new(dir.path().join("identity"));
        assert_eq!(file.read().unwrap(), None);
        for content in [&b""[..], b"one", b"something longer than before"] {
            file.write(content).unwrap();
            assert_eq!(file.read().unwrap().as_deref(), Some(content));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(file.read().unwrap(), None);
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = AtomicFile::new(dir.path().join("boots"));
        file.write(b"seventeen").unwrap();
        let good = fs::read(file.path()).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(file.path(), &bad).unwrap();
            assert_eq!(file.read().unwrap_err().kind(), io::ErrorKind::InvalidData, "byte {at}");
            fs::write(file.path(), &good[..at]).unwrap();
            assert_eq!(file.read().unwrap_err().kind(), io::ErrorKind::InvalidData, "cut at {at}");
        }
    }

    #[test]
    fn directories_are_made_with_those_above() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("one/two");
        make_dir(&deep).unwrap();
        make_dir(&deep).unwrap();
        AtomicFile::new(deep.join("file")).write(b"x").unwrap();
        assert!(make_dir(&deep.join("file")).is_err());
    }

    #[test]
    fn a_left_over_temporary_file_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let file = AtomicFile::new(dir.path().join("boots"));
        file.write(b"old").unwrap();
        fs::write(dir.path().join("boots.new"), b"half of something").unwrap();
        assert_eq!(file.read().unwrap().as_deref(), Some(&b"old"[..]));
        file.write(b"new").unwrap();
        assert_eq!(file.read().unwrap().as_deref(), Some(&b"new"[..]));
    }
}
