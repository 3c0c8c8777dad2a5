//! Larder's own API between nodes, as `proto/` has it, and the frames of gRPC around its messages.
//!
//! *Source*: gRPC over HTTP/2: each message behind a byte that says whether it is compressed, here never, and four with
//! its length.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;

use super::checksum::{Algorithm, Checksum};

/// Messages, as the build made them of `proto/larder/node/v1/node.proto`.
mod messages {
    include!(concat!(env!("OUT_DIR"), "/larder.node.v1.rs"));
}

pub use messages::{
    DescribeRequest, DescribeResponse, Entry, Field, FindRequest, FindResponse, Found, ReadRequest, ReadResponse, Sum,
    Varied,
};

/// The service's name: the first segment of its paths.
pub const SERVICE: &str = "larder.node.v1.Node";
/// The second one.
pub const DESCRIBE: &str = "Describe";
pub const FIND: &str = "Find";
pub const READ: &str = "Read";

/// How `Key::hash` hashes. Another number when it changes.
pub const KEY_FORM: u32 = 1;
/// Keys in one question.
pub const KEYS_MAX: usize = 64;
/// Bytes of all that is said of the keys of one question, at most.
pub const FOUND_MAX_BYTES: usize = 1 << 20;
/// Bytes of a blob in one message.
pub const PIECE: usize = 256 << 10;

/// The type of requests and answers.
pub const CONTENT_TYPE: &str = "application/grpc";
/// The fields that tell how a call ended.
pub const STATUS: &str = "grpc-status";
pub const MESSAGE: &str = "grpc-message";

/// How a call ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    Ok = 0,
    InvalidArgument = 3,
    NotFound = 5,
    Unimplemented = 12,
    Internal = 13,
}

const HEAD: usize = 5;

/// A message as it goes on the wire.
pub fn framed(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEAD + len);
    frame.extend_from_slice(&head(len));
    // The buffer grows: it cannot be too small.
    let _ = message.encode(&mut frame);
    frame.freeze()
}

/// Bytes of a blob as a `ReadResponse` on the wire: what stands before them, so that they need no copy.
pub fn piece_head(len: usize) -> Bytes {
    let mut message = BytesMut::with_capacity(16);
    prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut message);
    prost::encoding::encode_varint(len as u64, &mut message);
    let mut frame = BytesMut::with_capacity(HEAD + message.len());
    frame.extend_from_slice(&head(message.len() + len));
    frame.extend_from_slice(&message);
    frame.freeze()
}

fn head(len: usize) -> [u8; HEAD] {
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

/// Takes messages out of the bytes that come.
pub struct Frames {
    got: BytesMut,
    /// The largest message that is taken, in bytes.
    limit: usize,
}

/// What came is no such message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a message of {0} bytes, more than is taken")]
    TooLarge(usize),
    #[error("a compressed message, which nobody offered to read")]
    Compressed,
    #[error("{0}")]
    Unreadable(String),
    #[error("a message is cut short")]
    Cut,
}

impl Frames {
    pub fn up_to(limit: usize) -> Frames {
        Frames { got: BytesMut::new(), limit }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.got.extend_from_slice(bytes);
    }

    /// The next message. None: more bytes are needed.
    ///
    /// *Errors*: nothing that follows can be read.
    pub fn take<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        let Some(head) = self.got.first_chunk::<HEAD>() else { return Ok(None) };
        let [compressed, len @ ..] = *head;
        if compressed != 0 {
            return Err(FrameError::Compressed);
        }
        let len = u32::from_be_bytes(len) as usize;
        if len > self.limit {
            return Err(FrameError::TooLarge(len));
        }
        if self.got.len() < HEAD + len {
            return Ok(None);
        }
        self.got.advance(HEAD);
        let message = self.got.split_to(len).freeze();
        M::decode(message).map(Some).map_err(|error| FrameError::Unreadable(error.to_string()))
    }

    /// *Errors*: something is left of a message that never ended.
    pub fn end(&self) -> Result<(), FrameError> {
        if self.got.is_empty() { Ok(()) } else { Err(FrameError::Cut) }
    }
}

impl From<&Checksum> for Sum {
    fn from(sum: &Checksum) -> Sum {
        Sum { algorithm: sum.algorithm().name().to_owned(), bytes: Bytes::copy_from_slice(sum.as_bytes()) }
    }
}

impl Sum {
    /// None: of an algorithm that is not known here.
    pub fn read(&self) -> Option<Checksum> {
        Checksum::new(Algorithm::from_name(&self.algorithm)?, &self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_out_of_whatever_pieces_come() {
        let find = FindRequest { keys: vec![Bytes::from_static(&[7; 16]), Bytes::from_static(&[8; 16])] };
        let wire = [framed(&find), framed(&DescribeRequest {}), framed(&find)].concat();
        for size in [1, 3, 7, wire.len()] {
            let mut frames = Frames::up_to(100);
            let mut seen = Vec::new();
            let mut described = false;
            for piece in wire.chunks(size) {
                frames.push(piece);
                loop {
                    if seen.len() == 1 && !described {
                        match frames.take::<DescribeRequest>().expect("sound") {
                            Some(_) => described = true,
                            None => break,
                        }
                    } else {
                        match frames.take::<FindRequest>().expect("sound") {
                            Some(message) => seen.push(message),
                            None => break,
                        }
                    }
                }
            }
            assert_eq!((seen, frames.end()), (vec![find.clone(), find.clone()], Ok(())), "{size}");
        }
    }

    #[test]
    fn a_piece_without_a_copy_is_the_message() {
        for len in [0, 1, 127, 128, PIECE] {
            let data = Bytes::from(vec![5; len]);
            let mut frames = Frames::up_to(PIECE + 16);
            frames.push(&piece_head(len));
            frames.push(&data);
            assert_eq!(frames.take::<ReadResponse>(), Ok(Some(ReadResponse { data })));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let next = |bytes: &[u8]| {
            let mut frames = Frames::up_to(10);
            frames.push(bytes);
            (frames.take::<ReadRequest>().err(), frames.end().is_err())
        };
        assert_eq!(next(&[0, 0, 0, 0, 11]), (Some(FrameError::TooLarge(11)), true));
        assert_eq!(next(&[1, 0, 0, 0, 1, 0]), (Some(FrameError::Compressed), true));
        assert!(matches!(next(&[0, 0, 0, 0, 1, 0xff]).0, Some(FrameError::Unreadable(_))));
        assert_eq!(next(&[0, 0, 0, 0, 3, 1]), (None, true));
    }
}
