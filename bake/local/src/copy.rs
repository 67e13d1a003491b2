//! Copies of disks: blocks shared where the file system can, else only what is not a hole.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use camino::Utf8Path;
use olbake_engine::machine::MachineError;
use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;

use crate::host::io_error;

/// How large the pieces are where the kernel cannot copy by itself.
const BUFFER: usize = 1024 * 1024;

/// Copies a disk; a file at `to` is replaced.
pub fn copy_disk(from: &Utf8Path, to: &Utf8Path) -> Result<(), MachineError> {
    let source = File::open(from).map_err(io_error("cannot open", from))?;
    match std::fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("cannot replace", to)(error));
        }
        _ => {}
    }
    let target = OpenOptions::new().read(true).write(true).create_new(true).open(to);
    let target = target.map_err(io_error("cannot make", to))?;
    if ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let size = source.metadata().map_err(io_error("cannot read", from))?.len();
    target.set_len(size).map_err(io_error("cannot make", to))?;
    copy_data(&source, &target, size).map_err(|error| {
        // Half a copy is of no use, least of all on a disk that is full.
        std::fs::remove_file(to).ok();
        io_error("cannot write", to)(error)
    })
}

/// Copies what is not a hole. One thread: the file system lets one at a time write to a file, and the others would
/// spin.
fn copy_data(source: &File, target: &File, size: u64) -> io::Result<()> {
    let mut position = 0;
    while position < size {
        let start = match seek(source, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(source, SeekFrom::Hole(start))?;
        copy_piece(source, target, start, end)?;
        position = end;
    }
    Ok(())
}

fn copy_piece(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let wanted = usize::try_from(end - from).unwrap_or(usize::MAX);
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), wanted) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_by_hand(source, target, from, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &File, target: &File, mut position: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    while position < end {
        let wanted = usize::try_from(end - position).map_or(BUFFER, |left| left.min(BUFFER));
        let count = source.read_at(&mut buffer[..wanted], position)?;
        if count == 0 {
            return Ok(());
        }
        target.write_all_at(&buffer[..count], position)?;
        position += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn sparse(path: &Utf8Path) {
        let file = File::create(path).unwrap();
        file.set_len(256 << 20).unwrap();
        for (index, offset) in
            [0_u64, 5 << 20, (100 << 20) + 4096, (256 << 20) - 4096].into_iter().enumerate()
        {
            file.write_all_at(&[u8::try_from(index).unwrap() + 1; 4096], offset).unwrap();
        }
        file.write_all_at(&vec![7; 40 << 20], 150 << 20).unwrap();
    }

    #[test]
    fn a_copy_has_the_bytes_and_the_holes() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let (from, to) = (folder.join("from"), folder.join("to"));
        sparse(&from);
        std::fs::write(&to, "something else that is replaced").unwrap();
        copy_disk(&from, &to).unwrap();
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap(), "the bytes differ");
        let blocks = |path: &Utf8Path| path.metadata().unwrap().blocks();
        assert!(blocks(&to) <= blocks(&from) + 64, "{} blocks became {}", blocks(&from), blocks(&to));
    }

    #[test]
    fn copying_by_hand_gives_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        std::fs::write(folder.join("from"), vec![5; 3_000_000]).unwrap();
        let source = File::open(folder.join("from")).unwrap();
        let target = OpenOptions::new().write(true).create_new(true).open(folder.join("to")).unwrap();
        copy_by_hand(&source, &target, 0, 3_000_000).unwrap();
        assert_eq!(std::fs::read(folder.join("to")).unwrap(), vec![5; 3_000_000]);
    }
}
