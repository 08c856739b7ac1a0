//! Header blocks: names and values with 32-bit lengths, compressed with a dictionary over the whole connection
//! (SPDY/3, section 2.6.10).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frame::{Error, Headers};

/// Words with their lengths, the first part of the dictionary.
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// The second part, as it is.
const TEXT: &str = "1001012012022052063003023033043053063074024054064074084094104114124134144154164175025045\
    05203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 \
    Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun \
    Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,\
    image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
    sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// A header block is a few hundred bytes; this bounds what a small frame can grow to.
const MAX_BLOCK_BYTES: usize = 64 << 10;

pub(super) fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::with_capacity(1423);
    for word in WORDS {
        dictionary.extend((word.len() as u32).to_be_bytes());
        dictionary.extend(word.as_bytes());
    }
    dictionary.extend(TEXT.as_bytes());
    dictionary
}

/// Reads header blocks of one connection, in order.
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub fn headers(&mut self, compressed: &[u8]) -> Result<Headers, Error> {
        parse(&self.inflate(compressed)?)
    }

    fn inflate(&mut self, compressed: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::with_capacity(1024);
        let start = self.0.total_in();
        loop {
            let read = (self.0.total_in() - start) as usize;
            let result =
                self.0.decompress_vec(&compressed[read.min(compressed.len())..], &mut out, FlushDecompress::Sync);
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&dictionary())
                        .map_err(|_| Error::Protocol("an unknown header dictionary"))?;
                }
                Err(_) => return Err(Error::Protocol("header compression")),
                Ok(Status::Ok | Status::BufError) if out.len() == out.capacity() => {
                    if out.len() >= MAX_BLOCK_BYTES {
                        return Err(Error::Protocol("a header block larger than 64 KiB"));
                    }
                    out.reserve(out.len());
                }
                Ok(_) => return Ok(out),
            }
        }
    }
}

/// Writes header blocks of one connection, in order.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub fn new() -> Result<Self, Error> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&dictionary()).map_err(|_| Error::Protocol("header compression"))?;
        Ok(Self(compress))
    }

    pub fn headers(&mut self, headers: &Headers) -> Result<Vec<u8>, Error> {
        let mut plain = Vec::new();
        plain.extend((headers.len() as u32).to_be_bytes());
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let start = self.0.total_in();
        loop {
            let read = (self.0.total_in() - start) as usize;
            self.0
                .compress_vec(&plain[read..], &mut out, FlushCompress::Sync)
                .map_err(|_| Error::Protocol("header compression"))?;
            if out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(256);
        }
    }
}

fn parse(block: &[u8]) -> Result<Headers, Error> {
    let mut rest = block;
    let number = |rest: &mut &[u8]| -> Result<usize, Error> {
        let (head, tail) = rest.split_first_chunk::<4>().ok_or(Error::Protocol("a header block cut short"))?;
        *rest = tail;
        Ok(u32::from_be_bytes(*head) as usize)
    };
    let count = number(&mut rest)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let mut text = || -> Result<String, Error> {
            let length = number(&mut rest)?;
            let (text, tail) = rest.split_at_checked(length).ok_or(Error::Protocol("a header block cut short"))?;
            rest = tail;
            Ok(String::from_utf8_lossy(text).into_owned())
        };
        let (name, value) = (text()?.to_ascii_lowercase(), text()?);
        headers.push((name, value));
    }
    Ok(headers)
}
