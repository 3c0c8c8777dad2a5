//! A second opinion on where HTTP/1 requests begin and end. hyper decides; this follows the same bytes by stricter
//! rules before hyper sees them, and refuses what two readers could understand differently: repeated or mixed
//! lengths, folded lines, bare line feeds, odd chunks, targets in the wrong form, a Host too many or too few.
//!
//! It is no parser: it keeps no header and decodes nothing. *Source*: RFC 9112, sections 2.2, 3.2, 5, 6 and 7.1.

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;

use super::pulse::Stage;

/// The longest chunk-size line with its extensions, and the most bytes of trailers.
const CHUNK_LINE_BYTES: usize = 4 << 10;
const TRAILER_BYTES: usize = 8 << 10;

/// Follows the requests of one connection.
pub(crate) struct Framing {
    state: State,
    head: Head,
    /// The beginning of a line whose end has not come yet.
    carry: Vec<u8>,
    /// Bytes of the current head, or of the current trailers.
    bytes: usize,
    limit: usize,
    heads: u32,
    had_body: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    RequestLine,
    Fields,
    Body {
        left: u64,
    },
    ChunkSize,
    Chunk {
        left: u64,
    },
    ChunkEnd,
    Trailers,
    /// After a chunked body: the connection ends with the answer, so nothing may follow.
    Last,
    Tunnel,
    /// The head is longer than it may be; hyper will say so.
    Flood,
    Broken,
}

/// What matters of the current head.
#[derive(Clone, Copy, Default, Debug)]
struct Head {
    http10: bool,
    connect: bool,
    hosts: u32,
    length: Option<u64>,
    chunked: bool,
}

/// The bytes must not be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ambiguous;

impl Framing {
    /// *Units*: `limit` is the most bytes of a head.
    pub fn new(limit: usize) -> Framing {
        Framing {
            state: State::RequestLine,
            head: Head::default(),
            carry: Vec::new(),
            bytes: 0,
            limit,
            heads: 0,
            had_body: false,
        }
    }

    /// Heads that were read to their end. It wraps.
    pub fn heads(&self) -> u32 {
        self.heads
    }

    /// One head came that is, byte for byte, made of parts that were followed before.
    pub fn has_passed_a_head(&mut self) {
        self.heads = self.heads.wrapping_add(1);
    }

    /// Whether anything but heads has come yet.
    pub fn had_body(&self) -> bool {
        self.had_body
    }

    /// Whether the next byte begins a head.
    pub fn is_between_heads(&self) -> bool {
        self.state == State::RequestLine && self.bytes == 0
    }

    pub fn stage(&self) -> Stage {
        match self.state {
            State::RequestLine if self.bytes == 0 => Stage::Between,
            State::RequestLine | State::Fields | State::Flood | State::Broken => Stage::Head,
            State::Body { .. } | State::ChunkSize | State::Chunk { .. } | State::ChunkEnd | State::Trailers => {
                Stage::Body
            }
            State::Last => Stage::Between,
            State::Tunnel => Stage::Tunnel,
        }
    }

    /// Takes the next bytes of the connection.
    ///
    /// *Errors*: how many of them may be passed on; the rest, and all that follows, must not be.
    pub fn scan(&mut self, fresh: &[u8]) -> Result<(), usize> {
        let mut at = 0;
        while at < fresh.len() {
            let rest = &fresh[at..];
            let step = match self.state {
                State::Body { left } => Ok(self.skip(left, rest, |left| State::Body { left }, State::RequestLine)),
                State::Chunk { left } => Ok(self.skip(left, rest, |left| State::Chunk { left }, State::ChunkEnd)),
                State::Tunnel | State::Flood => return Ok(()),
                State::Last | State::Broken => Err(Ambiguous),
                _ => self.line(rest),
            };
            match step {
                Ok(taken) => at += taken,
                Err(Ambiguous) => {
                    self.state = State::Broken;
                    self.carry = Vec::new();
                    return Err(at);
                }
            }
        }
        Ok(())
    }

    fn skip(&mut self, left: u64, rest: &[u8], more: fn(u64) -> State, done: State) -> usize {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        let left = left - taken as u64;
        self.state = if left == 0 { done } else { more(left) };
        taken
    }

    /// Takes bytes up to the end of the line, or keeps them until it comes.
    fn line(&mut self, rest: &[u8]) -> Result<usize, Ambiguous> {
        let end = memchr::memchr(b'\n', rest);
        let taken = end.map_or(rest.len(), |end| end + 1);
        self.bytes += taken;
        if matches!(self.state, State::RequestLine | State::Fields) {
            if self.bytes > self.limit {
                self.state = State::Flood;
                self.carry = Vec::new();
                return Ok(taken);
            }
        } else if self.bytes > if self.state == State::Trailers { TRAILER_BYTES } else { CHUNK_LINE_BYTES } {
            return Err(Ambiguous);
        }
        if end.is_none() {
            self.carry.extend_from_slice(rest);
            return Ok(taken);
        }
        if self.carry.is_empty() {
            self.whole_line(&rest[..taken])?;
        } else {
            let mut line = std::mem::take(&mut self.carry);
            line.extend_from_slice(&rest[..taken]);
            self.whole_line(&line)?;
        }
        Ok(taken)
    }

    fn whole_line(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        let line = line.strip_suffix(b"\r\n").ok_or(Ambiguous)?;
        match self.state {
            // A server should ignore an empty line before the request line.
            State::RequestLine if line.is_empty() => {}
            State::RequestLine => {
                self.head = request_line(line)?;
                self.state = State::Fields;
            }
            State::Fields if line.is_empty() => {
                self.state = self.head.body()?;
                self.bytes = 0;
                self.heads = self.heads.wrapping_add(1);
                self.had_body |= self.state != State::RequestLine;
            }
            State::Fields => self.head.field(line)?,
            State::ChunkSize => {
                let left = chunk_size(line)?;
                self.state = if left == 0 { State::Trailers } else { State::Chunk { left } };
                self.bytes = 0;
            }
            State::ChunkEnd if line.is_empty() => {
                self.state = State::ChunkSize;
                self.bytes = 0;
            }
            State::Trailers if line.is_empty() => self.state = State::Last,
            State::Trailers if !is_folded(line) => {}
            _ => return Err(Ambiguous),
        }
        Ok(())
    }
}

impl Head {
    fn field(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        if is_folded(line) {
            return Err(Ambiguous);
        }
        let value_of = |name: &[u8]| {
            let named =
                line.len() > name.len() && line[name.len()] == b':' && line[..name.len()].eq_ignore_ascii_case(name);
            named.then(|| line[name.len() + 1..].trim_ascii())
        };
        match line[0].to_ascii_lowercase() {
            b'h' => {
                if let Some(value) = value_of(b"host") {
                    self.hosts += 1;
                    return is_host(value).then_some(()).ok_or(Ambiguous);
                }
            }
            b'c' => {
                if let Some(value) = value_of(b"content-length") {
                    let length = content_length(value)?;
                    return self.length.replace(length).is_none().then_some(()).ok_or(Ambiguous);
                }
            }
            b't' => {
                if let Some(value) = value_of(b"transfer-encoding") {
                    let first = !std::mem::replace(&mut self.chunked, true);
                    return (first && value.eq_ignore_ascii_case(b"chunked")).then_some(()).ok_or(Ambiguous);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What follows the head.
    fn body(&self) -> Result<State, Ambiguous> {
        let hosts_fit = if self.http10 { self.hosts <= 1 } else { self.hosts == 1 };
        let lengths_fit = !(self.chunked && (self.length.is_some() || self.http10));
        if !hosts_fit || !lengths_fit {
            return Err(Ambiguous);
        }
        if self.connect {
            return if self.chunked || self.length.unwrap_or(0) > 0 { Err(Ambiguous) } else { Ok(State::Tunnel) };
        }
        Ok(match self.length {
            _ if self.chunked => State::ChunkSize,
            Some(left) if left > 0 => State::Body { left },
            _ => State::RequestLine,
        })
    }
}

fn request_line(line: &[u8]) -> Result<Head, Ambiguous> {
    let text = std::str::from_utf8(line).map_err(|_| Ambiguous)?;
    let mut spaces = memchr::memchr_iter(b' ', line);
    let (Some(first), Some(second), None) = (spaces.next(), spaces.next(), spaces.next()) else {
        return Err(Ambiguous);
    };
    let (method, target, version) = (&text[..first], &text[first + 1..second], &text[second + 1..]);
    let http10 = match version {
        "HTTP/1.1" => false,
        "HTTP/1.0" => true,
        _ => return Err(Ambiguous),
    };
    let connect = method == "CONNECT";
    let visible = target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let fits = match target.as_bytes().first() {
        Some(_) if connect => is_authority_with_port(target),
        Some(b'/') => true,
        Some(b'*') => target == "*" && method == "OPTIONS",
        Some(_) => is_absolute(target),
        None => false,
    };
    (visible && fits).then_some(Head { http10, connect, ..Head::default() }).ok_or(Ambiguous)
}

fn is_absolute(target: &str) -> bool {
    let Some((scheme, rest)) = target.split_once("://") else { return false };
    let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    let scheme_fits = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    scheme_fits && !authority.is_empty() && is_host(authority.as_bytes())
}

fn is_authority_with_port(target: &str) -> bool {
    let Some((host, port)) = target.rsplit_once(':') else { return false };
    let port_fits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    !host.is_empty() && is_host(host.as_bytes()) && port_fits
}

/// A host with or without a port. No user information, nor anything else that could be read as another host.
fn is_host(value: &[u8]) -> bool {
    value.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_~:[]%".contains(byte))
}

fn content_length(value: &[u8]) -> Result<u64, Ambiguous> {
    let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).map_err(|_| Ambiguous)?;
    if digits { text.parse().map_err(|_| Ambiguous) } else { Err(Ambiguous) }
}

/// *Shape*: a line without its end. Extensions are allowed and ignored; spaces before them are not.
fn chunk_size(line: &[u8]) -> Result<u64, Ambiguous> {
    let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let clean = line.iter().all(|byte| *byte == b'\t' || (b' '..0x7f).contains(byte));
    if !clean || size.is_empty() || size.len() > 15 || !size.iter().all(u8::is_ascii_hexdigit) {
        return Err(Ambiguous);
    }
    let text = std::str::from_utf8(size).map_err(|_| Ambiguous)?;
    u64::from_str_radix(text, 16).map_err(|_| Ambiguous)
}

fn is_folded(line: &[u8]) -> bool {
    line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framing() -> Framing {
        Framing::new(1024)
    }

    /// Where the first refused byte stands, fed at once and byte by byte.
    fn refused_at(bytes: &[u8]) -> Option<usize> {
        let whole = framing().scan(bytes).err();
        let mut single = framing();
        let by_one = bytes.iter().position(|byte| single.scan(std::slice::from_ref(byte)).is_err());
        assert_eq!(whole.is_some(), by_one.is_some(), "{:?}", String::from_utf8_lossy(bytes));
        whole
    }

    #[test]
    fn whole_requests_leave_nothing_open() {
        for requests in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b?c HTTP/1.1\r\nhOST:\ta:80 \r\nX: y\r\n\r\n",
            "PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: u\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://a:80/b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://[::1]:80 HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        ] {
            let mut framing = framing();
            assert_eq!(framing.scan(requests.as_bytes()), Ok(()), "{requests}");
            assert_eq!(framing.stage(), Stage::Between, "{requests}");
            assert_eq!(refused_at(requests.as_bytes()), None, "{requests}");
        }
    }

    #[test]
    fn a_tunnel_is_not_followed() {
        let mut framing = framing();
        assert_eq!(framing.scan(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n\x16\x03\x01\n\n"), Ok(()));
        assert_eq!(framing.stage(), Stage::Tunnel);
    }

    #[test]
    fn the_refused_line_begins_where_the_error_says() {
        let good = "GET / HTTP/1.1\r\nHost: a\r\n";
        let bad = format!("{good} folded\r\n\r\n");
        assert_eq!(refused_at(bad.as_bytes()), Some(good.len()));
    }

    #[test]
    fn a_head_that_is_too_long_is_left_to_hyper() {
        let mut framing = framing();
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n", "y".repeat(2000));
        assert_eq!(framing.scan(head.as_bytes()), Ok(()));
        assert_eq!(framing.stage(), Stage::Head);
        assert_eq!(framing.carry.capacity(), 0);
    }

    #[test]
    fn nothing_may_follow_a_chunked_body() {
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        assert_eq!(refused_at(format!("{chunked}G").as_bytes()), Some(chunked.len()));
    }

    #[test]
    fn chunks_have_one_reading() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for chunks in [
            "\r\n",
            "x\r\n",
            "0x5\r\n",
            "+5\r\n",
            "-5\r\n",
            "5 \r\n",
            " 5\r\n",
            "5\n",
            "\n",
            "5;a\nb\r\n",
            "5\r\nabcdeX\r\n",
            "5\r\nabcde\n",
            "5\r\nabcdefg\r\n",
            "fffffffffffffffff\r\n",
            "0\r\n folded\r\n",
            "0\n\n",
            "5;\0\r\n",
        ] {
            assert!(refused_at(format!("{head}{chunks}").as_bytes()).is_some(), "{chunks:?}");
        }
    }

    /// Pieces of requests, right and wrong, in any order.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "GET / HTTP/1.1\r\n",
            "POST /a HTTP/1.1\r\n",
            "CONNECT a:1 HTTP/1.1\r\n",
            "Host: a\r\n",
            "\r\n",
            "\n",
            "\r",
            "Content-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\n",
            "abc",
            "3\r\n",
            "0\r\n",
            " ",
            "X: y\r\n",
            "\0",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_changes_nothing(bytes in pieces(), cuts in prop::collection::vec(1_usize..9, 1..50)) {
            let mut whole = framing();
            let judged = whole.scan(&bytes).is_ok();
            let (mut cut, mut rest) = (framing(), bytes.as_slice());
            let mut judged_cut = true;
            for len in cuts.iter().cycle() {
                if rest.is_empty() || !judged_cut {
                    break;
                }
                let (now, later) = rest.split_at((*len).min(rest.len()));
                judged_cut = cut.scan(now).is_ok();
                rest = later;
            }
            prop_assert_eq!(judged, judged_cut);
            prop_assert_eq!(whole.state, cut.state);
        }

        #[test]
        fn any_bytes_end_in_a_judgement(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let passed = framing().scan(&bytes).err().unwrap_or(bytes.len());
            prop_assert!(passed <= bytes.len());
        }
    }
}
