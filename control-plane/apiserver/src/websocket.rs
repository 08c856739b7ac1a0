//! Answers that are streams, as WebSockets: logs and watches, for clients that read nothing else (browsers).
//! (upstream `apiserver/pkg/util/wsstream/stream.go` and `endpoints/handlers/watch.go`.)

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role};
use tokio_util::sync::CancellationToken;
use xebec_schema::status::Status;

use crate::body::Body;

/// The protocols in which a stream of bytes is sent, the one without a name among them.
const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

/// How a stream becomes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A line, without its end, is a text message: the events of a watch.
    Lines,
    /// Pieces of bytes, as they come.
    Pieces,
    /// The same as text, in base64.
    Base64,
}

/// Whether the client wants a WebSocket (RFC 6455, section 4.2.1).
pub fn is_wanted(headers: &HeaderMap) -> bool {
    let has = |name, word: &str| {
        let texts = headers.get_all(name).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        texts.flat_map(|text| text.split(',')).any(|w| w.trim().eq_ignore_ascii_case(word))
    };
    has(CONNECTION, "upgrade") && has(UPGRADE, "websocket")
}

/// A client's wish for a WebSocket, taken out of its request: what is left of that is an ordinary one.
pub struct Wish {
    key: HeaderValue,
    protocols: Vec<String>,
    upgrade: OnUpgrade,
}

impl Wish {
    /// Takes it.
    ///
    /// # Errors
    ///
    /// 400 if the request cannot become a WebSocket.
    pub fn take(parts: &mut Parts) -> Result<Self, Status> {
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        let upgrade = upgrade.ok_or_else(|| Status::bad_request("this connection cannot be upgraded; use HTTP/1.1"))?;
        let key = parts.headers.remove(SEC_WEBSOCKET_KEY);
        let key = key.ok_or_else(|| Status::bad_request("the header Sec-WebSocket-Key is missing"))?;
        let texts = parts.headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        let protocols = texts.flat_map(|text| text.split(',')).map(|p| p.trim().to_owned()).collect();
        for header in [CONNECTION, UPGRADE, SEC_WEBSOCKET_PROTOCOL] {
            parts.headers.remove(header);
        }
        Ok(Self { key, protocols, upgrade })
    }

    /// How bytes are sent, by what the client speaks.
    ///
    /// # Errors
    ///
    /// 400 if it speaks nothing that the server does.
    pub fn bytes(&self) -> Result<(Framing, Option<&'static str>), Status> {
        if self.named().next().is_none() {
            return Ok((Framing::Pieces, None));
        }
        let known = self.named().find_map(|protocol| match protocol {
            BINARY => Some((Framing::Pieces, Some(BINARY))),
            BASE64 => Some((Framing::Base64, Some(BASE64))),
            _ => None,
        });
        known.ok_or_else(|| {
            let asked = self.protocols.join(" ");
            Status::bad_request(format!(
                "requested protocol(s) are not supported: [{asked}]; supports [ {BINARY} {BASE64}]"
            ))
        })
    }

    fn named(&self) -> impl Iterator<Item = &str> {
        // A token to authenticate by is no protocol to speak (KEP: `base64url.bearer.authorization.k8s.io`).
        let token = "base64url.bearer.authorization.k8s.io.";
        self.protocols.iter().map(String::as_str).filter(move |p| !p.is_empty() && !p.starts_with(token))
    }

    /// Sends the answer's body over the WebSocket, if it is a good one; others are sent as they are.
    ///
    /// # Errors
    ///
    /// 500 if the answer cannot be written.
    pub fn grant(
        self,
        answer: Response<Body>,
        framing: Framing,
        protocol: Option<&str>,
        stop: CancellationToken,
    ) -> Result<Response<Body>, Status> {
        if answer.status() != StatusCode::OK {
            return Ok(answer);
        }
        let mut switched = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(self.key.as_bytes()));
        if let Some(protocol) = protocol {
            switched = switched.header(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let (upgrade, body) = (self.upgrade, answer.into_body());
        tokio::spawn(async move {
            match upgrade.await {
                Ok(stream) => {
                    let socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        () = send(socket, body, framing) => {}
                    }
                }
                Err(error) => tracing::debug!(%error, "an upgrade did not come about"),
            }
        });
        switched.body(Body::Empty).map_err(Status::internal)
    }
}

/// Sends a body, and ends with it; or with the client, of whom nothing else is heard.
async fn send<S: AsyncRead + AsyncWrite + Unpin>(socket: WebSocketStream<S>, mut body: Body, framing: Framing) {
    let (mut sink, mut source) = socket.split();
    let sending = async {
        let mut rest = BytesMut::new();
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            for message in messages(framing, data, &mut rest) {
                sink.send(message).await?;
            }
        }
        if !rest.is_empty() {
            sink.send(text(&rest)).await?;
        }
        let reason = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        sink.send(Message::Close(Some(reason))).await
    };
    let listening = async {
        while let Some(Ok(message)) = source.next().await
            && !message.is_close()
        {}
    };
    tokio::select! {
        biased;
        result = sending => if let Err(error) = result {
            tracing::debug!(%error, "a WebSocket ended early");
        },
        () = listening => {}
    }
}

/// The messages of a piece; `rest` is what has no end yet.
fn messages(framing: Framing, data: Bytes, rest: &mut BytesMut) -> Vec<Message> {
    match framing {
        Framing::Pieces => vec![Message::Binary(data)],
        Framing::Base64 => vec![Message::Text(STANDARD.encode(data).into())],
        Framing::Lines => {
            rest.extend_from_slice(&data);
            let mut lines = Vec::new();
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = rest.split_to(end + 1);
                lines.push(text(&line[..end]));
            }
            lines
        }
    }
}

fn text(bytes: &[u8]) -> Message {
    Message::Text(String::from_utf8_lossy(bytes).into_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::BoxError;

    async fn received(pieces: &[&'static str], framing: Framing) -> Vec<Message> {
        let pieces: Vec<Result<Bytes, BoxError>> =
            pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
        let (ours, theirs) = tokio::io::duplex(4096);
        let server = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        let sending = tokio::spawn(send(server, Body::stream(futures::stream::iter(pieces)), framing));
        let client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        let messages = client.take_while(|m| std::future::ready(m.as_ref().is_ok_and(|m| !m.is_close())));
        let messages = messages.map(Result::unwrap).collect().await;
        sending.await.unwrap();
        messages
    }

    #[tokio::test]
    async fn bodies_become_messages() {
        let text = |text: &str| Message::Text(text.into());
        let events = received(&["{\"a\":1}\n{\"b\"", ":2}\n"], Framing::Lines).await;
        assert_eq!(events, [text("{\"a\":1}"), text("{\"b\":2}")]);
        let log = received(&["one\n", "two"], Framing::Pieces).await;
        assert_eq!(log, [Message::Binary("one\n".into()), Message::Binary("two".into())]);
        assert_eq!(received(&["one\n"], Framing::Base64).await, [text("b25lCg==")]);
    }

    #[test]
    fn a_wish_is_told_by_its_headers() {
        let headers = |upgrade: &'static str| {
            let pairs = [
                (CONNECTION, HeaderValue::from_static("keep-alive, Upgrade")),
                (UPGRADE, HeaderValue::from_static(upgrade)),
            ];
            pairs.into_iter().collect::<HeaderMap>()
        };
        assert!(is_wanted(&headers("WebSocket")));
        assert!(!is_wanted(&headers("SPDY/3.1")));
        assert!(!is_wanted(&HeaderMap::new()));
    }
}
