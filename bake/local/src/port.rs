//! The agent's side of a virtio port: one session after another on one stream of bytes.
//!
//! A virtio port does not end when the program at its other end does, and a connection to it that is closed and
//! opened again may look, from inside, as if it had been open all the time. So nothing here depends on connections:
//! each session has a number, begins with a marker that bears it, and ends with one that says so. What comes before
//! a session's marker is of older ones. Main type: [`Port`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Comes before a word about sessions. Frames are lengths and JSON; the first bytes here are in no UTF-8 text, and
/// a length that had them all would be too large for any frame.
pub(crate) const MARKER: [u8; 16] = *b"\xff\xff\xff\xffolbake agent";
/// The word after the marker where a session ended.
pub(crate) const ENDED: &str = "ended";

/// The marker with which a session begins.
fn beginning(number: u64) -> Vec<u8> {
    [MARKER.as_slice(), number.to_string().as_bytes(), b"\n"].concat()
}

/// A stream that ends where its session does.
pub(crate) struct Port<S> {
    stream: S,
    /// Bytes that were read and not handed on; among them may be a marker's beginning.
    held: Vec<u8>,
    ended: bool,
}

impl<S: AsyncRead + Unpin> Port<S> {
    /// The port at the other end of a stream.
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, held: Vec::new(), ended: false }
    }

    /// Waits until a session begins, and passes over all that is older.
    pub(crate) async fn begin(&mut self, number: u64) -> io::Result<()> {
        let beginning = beginning(number);
        loop {
            if let Some(at) = find(&self.held, &beginning) {
                self.held.drain(..at + beginning.len());
                return Ok(());
            }
            let surplus = self.held.len().saturating_sub(beginning.len());
            self.held.drain(..surplus);
            if self.stream.read_buf(&mut self.held).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// How many held bytes are certainly this session's.
    fn certain(&mut self) -> usize {
        if let Some(at) = find(&self.held, &MARKER) {
            self.held.truncate(at);
            self.ended = true;
        }
        if self.ended {
            return self.held.len();
        }
        let longest = MARKER.len().min(self.held.len());
        let begun = (0..=longest).rev().find(|length| self.held.ends_with(&MARKER[..*length]));
        self.held.len() - begun.unwrap_or(0)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Port<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let count = this.certain().min(buffer.remaining());
            if count > 0 || this.ended || buffer.remaining() == 0 {
                buffer.put_slice(&this.held[..count]);
                this.held.drain(..count);
                return Poll::Ready(Ok(()));
            }
            let mut piece = [0; 16 * 1024];
            let mut read = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            this.ended = read.filled().is_empty();
            this.held.extend_from_slice(read.filled());
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Session 12 of a stream that gives its pieces one by one.
    async fn session(pieces: &[&[u8]]) -> io::Result<Vec<u8>> {
        let stream = pieces
            .iter()
            .fold(Box::new(tokio::io::empty()) as Box<dyn AsyncRead + Unpin>, |before, piece| {
                Box::new(before.chain(io::Cursor::new(piece.to_vec())))
            });
        let mut port = Port::new(stream);
        port.begin(12).await?;
        let mut bytes = Vec::new();
        port.read_to_end(&mut bytes).await?;
        Ok(bytes)
    }

    #[tokio::test]
    async fn a_session_is_what_is_between_its_markers() {
        let ended = [MARKER.as_slice(), ENDED.as_bytes(), b"\n"].concat();
        let older =
            [b"old rest".as_slice(), &ended, &beginning(1), b"one", &beginning(11), b"its rest"].concat();
        let stream = [older.as_slice(), &ended, &beginning(12), b"hello", &ended, b"the next"].concat();
        assert_eq!(session(&[&stream]).await.unwrap(), b"hello");
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(session(&single).await.unwrap(), b"hello");
    }

    #[tokio::test]
    async fn what_only_looks_like_a_marker_is_handed_on() {
        let stream = [beginning(12).as_slice(), b"a\xff\xffb\xff\xff\xff\xffolbak", b"\xff"].concat();
        for size in 1..stream.len() {
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            let expected = &stream[beginning(12).len()..];
            assert_eq!(session(&pieces).await.unwrap(), expected, "in pieces of {size}");
        }
    }

    #[tokio::test]
    async fn a_stream_without_the_session_is_an_error() {
        for other in [b"nothing".to_vec(), beginning(1), beginning(121)] {
            assert_eq!(session(&[&other]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
