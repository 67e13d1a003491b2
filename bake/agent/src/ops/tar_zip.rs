//! Archives as a sequence of members: tar in four wrappings, and zip. Nothing here writes files or judges names.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take};

use camino::Utf8Path;
use olbake_core::operation::ArchiveFormat;

use crate::error::{At, OpError, Result};

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    /// A symbolic link and what it holds.
    Link(String),
    /// Another name of a member.
    HardLink(String),
}

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// As the archive has it.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
}

/// Hears of each member in turn, with its bytes to read.
pub(crate) type Visitor<'v> = dyn FnMut(usize, &Member, &mut dyn Read) -> Result<()> + 'v;

/// Visits the members of an archive in order.
pub(crate) fn visit(path: &Utf8Path, format: ArchiveFormat, visitor: &mut Visitor<'_>) -> Result<()> {
    let file = File::open(path).at("open", path)?;
    let input = BufReader::with_capacity(64 * 1024, file);
    match format {
        ArchiveFormat::Tar => visit_tar(input, visitor),
        ArchiveFormat::TarGz => visit_tar(flate2::bufread::MultiGzDecoder::new(input), visitor),
        ArchiveFormat::TarXz => visit_tar(lzma_rust2::XzReader::new(input, true), visitor),
        ArchiveFormat::TarZst => visit_tar(Zstandard { input: Some(input), frame: None }, visitor),
        ArchiveFormat::Zip => visit_zip(input, visitor),
    }
}

fn damaged(error: impl std::fmt::Display) -> OpError {
    OpError::wrong(format!("the archive cannot be read: {error}"))
}

fn visit_tar(input: impl Read, visitor: &mut Visitor<'_>) -> Result<()> {
    let mut archive = tar::Archive::new(input);
    for (index, entry) in archive.entries().map_err(damaged)?.enumerate() {
        let mut entry = entry.map_err(damaged)?;
        let name = utf8(entry.path_bytes().into_owned())?;
        let target = |entry: &tar::Entry<'_, _>| -> Result<String> {
            let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
            utf8(target)
        };
        let kind = match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => Kind::File,
            tar::EntryType::Directory => Kind::Directory,
            tar::EntryType::Symlink => Kind::Link(target(&entry)?),
            tar::EntryType::Link => Kind::HardLink(target(&entry)?),
            tar::EntryType::XGlobalHeader => continue,
            other => {
                return Err(OpError::wrong(format!(
                    "the archive's member `{name}` is neither file, directory nor link ({other:?})"
                )));
            }
        };
        let mode = entry.header().mode().map_err(damaged)? & 0o7777;
        visitor(index, &Member { name, kind, mode }, &mut entry)?;
    }
    Ok(())
}

fn utf8(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        OpError::wrong(format!("the archive's member `{}` is not UTF-8", error.utf8_lossy()))
    })
}

trait LossyError {
    fn utf8_lossy(&self) -> String;
}

impl LossyError for std::string::FromUtf8Error {
    fn utf8_lossy(&self) -> String {
        String::from_utf8_lossy(self.as_bytes()).into_owned()
    }
}

/// Zstandard, one frame after the other.
struct Zstandard<R: io::BufRead> {
    /// The stream between frames.
    input: Option<R>,
    frame: Option<Box<ruzstd::decoding::StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>>,
}

impl<R: io::BufRead> Read for Zstandard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let count = frame.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
                self.input = self.frame.take().map(|frame| frame.into_inner());
            }
            let Some(mut input) = self.input.take() else { return Ok(0) };
            if input.fill_buf()?.is_empty() {
                return Ok(0);
            }
            let frame = ruzstd::decoding::StreamingDecoder::new(input).map_err(io::Error::other)?;
            self.frame = Some(Box::new(frame));
        }
    }
}

/// A line of a zip's directory.
struct ZipEntry {
    name: String,
    method: u16,
    crc: u32,
    compressed: u64,
    size: u64,
    offset: u64,
    mode: Option<u32>,
}

/// The format is PKWARE's APPNOTE 6.3.10; numbers are little-endian.
fn visit_zip(mut input: impl Read + Seek, visitor: &mut Visitor<'_>) -> Result<()> {
    for (index, entry) in zip_directory(&mut input)?.into_iter().enumerate() {
        let mut header = [0; 30];
        input.seek(SeekFrom::Start(entry.offset)).map_err(damaged)?;
        input.read_exact(&mut header).map_err(damaged)?;
        if !header.starts_with(b"PK\x03\x04") {
            return Err(damaged(format!("no member where `{}` should be", entry.name)));
        }
        let skip = u64::from(u16_at(&header, 26)?) + u64::from(u16_at(&header, 28)?);
        input.seek(SeekFrom::Current(i64::try_from(skip).unwrap_or(0))).map_err(damaged)?;
        let stored = (&mut input).take(entry.compressed);
        match entry.method {
            0 => zip_member(index, &entry, stored, visitor)?,
            8 => zip_member(index, &entry, flate2::read::DeflateDecoder::new(stored), visitor)?,
            other => return Err(damaged(format!("`{}` is compressed by method {other}", entry.name))),
        }
    }
    Ok(())
}

fn zip_member(index: usize, entry: &ZipEntry, bytes: impl Read, visitor: &mut Visitor<'_>) -> Result<()> {
    let mut bytes = Checked { inner: bytes.take(entry.size), crc: flate2::Crc::new(), expected: entry.crc };
    let is_link = entry.mode.is_some_and(|mode| mode & 0o170_000 == 0o120_000);
    let kind = if entry.name.ends_with('/') {
        Kind::Directory
    } else if is_link {
        let mut target = Vec::new();
        bytes.read_to_end(&mut target).map_err(damaged)?;
        Kind::Link(utf8(target)?)
    } else {
        Kind::File
    };
    let default = if kind == Kind::Directory { 0o755 } else { 0o644 };
    let mode = entry.mode.map_or(default, |mode| mode & 0o7777);
    visitor(index, &Member { name: entry.name.clone(), kind, mode }, &mut bytes)
}

/// Fails at the end of bytes that are not those of the checksum.
struct Checked<R> {
    inner: Take<R>,
    crc: flate2::Crc,
    expected: u32,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.crc.update(&buffer[..count]);
        if count == 0 && !buffer.is_empty() && self.crc.sum() != self.expected {
            return Err(io::Error::other("a member's bytes do not have its checksum"));
        }
        Ok(count)
    }
}

fn zip_directory(input: &mut (impl Read + Seek)) -> Result<Vec<ZipEntry>> {
    let length = input.seek(SeekFrom::End(0)).map_err(damaged)?;
    let tail_length = length.min(22 + 65_535);
    let mut tail = Vec::new();
    input.seek(SeekFrom::Start(length - tail_length)).map_err(damaged)?;
    input.read_to_end(&mut tail).map_err(damaged)?;
    let end = memchr::memmem::rfind(&tail, b"PK\x05\x06").ok_or_else(|| damaged("it is no zip archive"))?;
    let mut count = u64::from(u16_at(&tail, end + 10)?);
    let mut size = u64::from(u32_at(&tail, end + 12)?);
    let mut offset = u64::from(u32_at(&tail, end + 16)?);
    if let Some(locator) = end.checked_sub(20).filter(|at| tail[*at..].starts_with(b"PK\x06\x07")) {
        let mut record = [0; 56];
        input.seek(SeekFrom::Start(u64_at(&tail, locator + 8)?)).map_err(damaged)?;
        input.read_exact(&mut record).map_err(damaged)?;
        (count, size, offset) = (u64_at(&record, 32)?, u64_at(&record, 40)?, u64_at(&record, 48)?);
    }
    if size > length || offset > length {
        return Err(damaged("its directory lies beyond its end"));
    }
    let mut directory = Vec::new();
    input.seek(SeekFrom::Start(offset)).map_err(damaged)?;
    input.take(size).read_to_end(&mut directory).map_err(damaged)?;
    let mut entries = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let (entry, next) = zip_entry(&directory, at)?;
        entries.push(entry);
        at = next;
    }
    Ok(entries)
}

fn zip_entry(directory: &[u8], at: usize) -> Result<(ZipEntry, usize)> {
    if !directory.get(at..).is_some_and(|rest| rest.starts_with(b"PK\x01\x02")) {
        return Err(damaged("its directory is torn"));
    }
    let made_by = u16_at(directory, at + 4)?;
    if u16_at(directory, at + 8)? & 1 != 0 {
        return Err(damaged("it is encrypted"));
    }
    let lengths = [28, 30, 32].map(|field| u16_at(directory, at + field).map(usize::from));
    let [name, extra, comment] = lengths;
    let (name_end, extra_length, comment) = (at + 46 + name?, extra?, comment?);
    let bytes =
        |from: usize, to: usize| directory.get(from..to).ok_or_else(|| damaged("its directory is torn"));
    let mut entry = ZipEntry {
        name: utf8(bytes(at + 46, name_end)?.to_vec())?,
        method: u16_at(directory, at + 10)?,
        crc: u32_at(directory, at + 16)?,
        compressed: u64::from(u32_at(directory, at + 20)?),
        size: u64::from(u32_at(directory, at + 24)?),
        offset: u64::from(u32_at(directory, at + 42)?),
        mode: (made_by >> 8 == 3).then(|| u32_at(directory, at + 38).map(|bits| bits >> 16)).transpose()?,
    };
    large_numbers(bytes(name_end, name_end + extra_length)?, &mut entry)?;
    Ok((entry, name_end + extra_length + comment))
}

/// Numbers that need eight bytes are in an extra field, in the order of those that say so.
fn large_numbers(mut extra: &[u8], entry: &mut ZipEntry) -> Result<()> {
    while extra.len() >= 4 {
        let (id, length) = (u16_at(extra, 0)?, usize::from(u16_at(extra, 2)?));
        let field = extra.get(4..4 + length).ok_or_else(|| damaged("its directory is torn"))?;
        if id == 1 {
            let mut at = 0;
            for number in [&mut entry.size, &mut entry.compressed, &mut entry.offset] {
                if *number == u64::from(u32::MAX) {
                    *number = u64_at(field, at)?;
                    at += 8;
                }
            }
        }
        extra = &extra[4 + length..];
    }
    Ok(())
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or_else(|| damaged("it is torn"))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}
