use flate2::Compression;
use proptest::prelude::*;
use tokio::io::duplex;

use super::frame::{Decoder, Encoder, HEAD_BYTES, body_bytes};
use super::*;

/// Adler-32 of the dictionary, by which a zlib stream names it.
fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    b << 16 | a
}

#[test]
fn the_dictionary_is_spdy_3s() {
    let dictionary = headers::dictionary();
    assert_eq!(dictionary.len(), 1423);
    assert_eq!(adler32(&dictionary), 0xe3c6_a7c2);
}

struct Client<IO> {
    io: IO,
    encoder: Encoder,
    decoder: Decoder,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    fn new(io: IO) -> Self {
        Self { io, encoder: Encoder::new(), decoder: Decoder::new() }
    }

    async fn send(&mut self, frame: Frame) {
        let mut bytes = Vec::new();
        self.encoder.encode(&frame, &mut bytes).unwrap();
        self.io.write_all(&bytes).await.unwrap();
    }

    async fn receive(&mut self) -> Frame {
        let mut head = [0; HEAD_BYTES];
        self.io.read_exact(&mut head).await.unwrap();
        let mut body = vec![0; body_bytes(head).unwrap()];
        self.io.read_exact(&mut body).await.unwrap();
        self.decoder.decode(head, body).unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_stream_is_opened_and_echoes() {
    let (ours, theirs) = duplex(1 << 16);
    let mut streams = serve(ours);
    let mut client = Client::new(theirs);
    for stream in [1, 3] {
        let headers = vec![("streamtype".to_owned(), format!("data{stream}"))];
        client.send(Frame::Open { stream, headers, last: false }).await;
        assert_eq!(client.receive().await, Frame::Accept { stream });
        let mut opened = streams.recv().await.unwrap();
        assert_eq!(opened.header("streamtype"), Some(format!("data{stream}").as_str()));
        client.send(Frame::Data { stream, bytes: Bytes::from_static(b"ping"), last: true }).await;
        let mut text = String::new();
        opened.input.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "ping");
        opened.output.write_all(b"pong").await.unwrap();
        opened.output.shutdown().await.unwrap();
        assert_eq!(client.receive().await, Frame::Data { stream, bytes: Bytes::from_static(b"pong"), last: false });
        assert_eq!(client.receive().await, Frame::Data { stream, bytes: Bytes::new(), last: true });
    }
    client.send(Frame::Ping { number: 7 }).await;
    assert_eq!(client.receive().await, Frame::Ping { number: 7 });
    drop(client);
    assert!(streams.recv().await.is_none(), "the queue ends with the connection");
}

#[tokio::test]
async fn rubbish_ends_the_connection() {
    let (ours, mut theirs) = duplex(1 << 16);
    let mut streams = serve(ours);
    theirs.write_all(&[0xff; 64]).await.unwrap();
    assert!(streams.recv().await.is_none());
}

#[test]
fn a_block_that_grows_without_end_is_refused() {
    let mut deflater = flate2::Compress::new(Compression::best(), true);
    deflater.set_dictionary(&headers::dictionary()).unwrap();
    let mut bomb = Vec::with_capacity(1 << 16);
    deflater.compress_vec(&vec![0; 4 << 20], &mut bomb, flate2::FlushCompress::Sync).unwrap();
    assert!(matches!(headers::Inflater::new().headers(&bomb), Err(Error::Protocol(_))));
}

proptest! {
    #[test]
    fn frames_survive_the_wire(
        headers in proptest::collection::vec(("[a-z-]{1,12}", "[ -~]{0,40}"), 0..6),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        last in any::<bool>(),
    ) {
        let frames = [
            Frame::Open { stream: 1, headers: headers.clone(), last },
            Frame::Data { stream: 1, bytes: bytes.into(), last },
            Frame::Open { stream: 3, headers, last },
            Frame::Reset { stream: 3 },
            Frame::Accept { stream: 5 },
            Frame::GoAway,
        ];
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        for frame in frames {
            let mut wire = Vec::new();
            encoder.encode(&frame, &mut wire).unwrap();
            let head: [u8; HEAD_BYTES] = wire[..HEAD_BYTES].try_into().unwrap();
            let body = wire[HEAD_BYTES..].to_vec();
            prop_assert_eq!(body_bytes(head).unwrap(), body.len());
            prop_assert_eq!(decoder.decode(head, body).unwrap(), Some(frame));
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(head: [u8; HEAD_BYTES], body in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = Decoder::new().decode(head, body);
    }
}
