//! The agent's side of a virtio port: one session after another on one stream of bytes.
//!
//! A virtio port does not end when the program at its other end does. So each session begins with a marker; what
//! comes before the first is of an older session, and a second one is this session's end. Main type: [`Port`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Begins a session. Frames are lengths and JSON; the first bytes here are in no UTF-8 text, and a length that had
/// them all would be too large for any frame.
pub(crate) const MARKER: [u8; 16] = *b"\xff\xff\xff\xffolbake agent";

/// A stream that ends where the next session begins.
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

    /// Waits until a session begins.
    pub(crate) async fn begin(&mut self) -> io::Result<()> {
        loop {
            if let Some(at) = find(&self.held) {
                self.held.drain(..at + MARKER.len());
                return Ok(());
            }
            let surplus = self.held.len().saturating_sub(MARKER.len());
            self.held.drain(..surplus);
            if self.stream.read_buf(&mut self.held).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// How many held bytes are certainly this session's.
    fn certain(&mut self) -> usize {
        if let Some(at) = find(&self.held) {
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

fn find(bytes: &[u8]) -> Option<usize> {
    bytes.windows(MARKER.len()).position(|window| window == MARKER)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that gives its pieces one by one.
    async fn session(pieces: &[&[u8]]) -> io::Result<Vec<u8>> {
        let stream = pieces
            .iter()
            .fold(Box::new(tokio::io::empty()) as Box<dyn AsyncRead + Unpin>, |before, piece| {
                Box::new(before.chain(io::Cursor::new(piece.to_vec())))
            });
        let mut port = Port::new(stream);
        port.begin().await?;
        let mut bytes = Vec::new();
        port.read_to_end(&mut bytes).await?;
        Ok(bytes)
    }

    #[tokio::test]
    async fn a_session_is_what_is_between_markers() {
        let stream = [b"old rest".as_slice(), &MARKER, b"hello", &MARKER, b"the next"].concat();
        assert_eq!(session(&[&stream]).await.unwrap(), b"hello");
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(session(&single).await.unwrap(), b"hello");
    }

    #[tokio::test]
    async fn what_only_looks_like_a_marker_is_handed_on() {
        let stream = [MARKER.as_slice(), b"a\xff\xffb\xff\xff\xff\xffolbak", b"\xff"].concat();
        for size in 1..stream.len() {
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(session(&pieces).await.unwrap(), &stream[MARKER.len()..], "in pieces of {size}");
        }
    }

    #[tokio::test]
    async fn a_stream_without_session_is_an_error() {
        assert_eq!(session(&[b"nothing"]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
