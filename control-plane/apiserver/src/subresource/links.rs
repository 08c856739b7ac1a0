//! Links in what is served through `proxy`: paths of the server behind become paths below the proxy's own
//! (apimachinery `util/proxy/transport.go`).

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt as _;
use http::Response;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use http_body_util::BodyExt as _;
use lol_html::element;
use lol_html::errors::RewritingError;
use lol_html::send::{HtmlRewriter, Settings};

use crate::body::{Body, BoxError};

/// Where a page's links lead: the server behind, and the path that stands before its own for the client.
#[derive(Clone, Debug)]
pub struct Links {
    /// `10.244.1.5:8080`.
    pub host: String,
    /// `/api/v1/namespaces/default/pods/web/proxy`.
    pub prefix: String,
}

impl Links {
    /// What the client can follow; `None` if that is the link as it is.
    fn rewritten(&self, link: &str) -> Option<String> {
        let after_scheme = match link.split_once("://") {
            Some(("http" | "https", rest)) => Some(rest),
            Some(_) => return None,
            None => link.strip_prefix("//"),
        };
        let path = match after_scheme {
            Some(rest) => {
                let (host, _) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                if host != self.host {
                    return None;
                }
                &rest[host.len()..]
            }
            None => link,
        };
        let below = path.strip_prefix(&self.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        (path.starts_with('/') && !below).then(|| format!("{}{path}", self.prefix))
    }

    /// The answer with its redirect, or the links of its page, rewritten.
    pub fn in_answer(self, mut answer: Response<Body>) -> Response<Body> {
        if let Some(to) = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok()) {
            if let Some(to) = self.rewritten(to).and_then(|to| HeaderValue::try_from(to).ok()) {
                answer.headers_mut().insert(LOCATION, to);
            }
            return answer;
        }
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is_page = kind.split(';').next().is_some_and(|kind| kind.trim() == "text/html");
        if !is_page || answer.headers().contains_key(CONTENT_ENCODING) {
            return answer;
        }
        answer.headers_mut().remove(CONTENT_LENGTH);
        answer.map(|body| self.in_page(body))
    }

    fn in_page(self, body: Body) -> Body {
        let page = Page::new(self);
        let pieces = body.into_data_stream().map(Some).chain(futures::stream::iter([None]));
        Body::stream(pieces.scan(Some(page), |page, piece| {
            let next = match (page.as_mut(), piece) {
                (None, _) => None,
                (Some(page), Some(Ok(piece))) => Some(page.write(&piece).map_err(BoxError::from)),
                (Some(_), Some(Err(error))) => {
                    *page = None;
                    Some(Err(error))
                }
                (Some(_), None) => page.take().map(|page| page.end().map_err(BoxError::from)),
            };
            std::future::ready(next)
        }))
    }
}

/// Which attributes are links, of which elements (`atomsToAttrs`).
fn attributes(tag: &str) -> &'static [&'static str] {
    match tag {
        "a" | "area" | "base" | "link" => &["href"],
        "applet" => &["codebase"],
        "audio" | "embed" | "script" | "source" => &["src"],
        "blockquote" | "del" | "ins" | "q" => &["cite"],
        "body" => &["background"],
        "button" => &["formaction"],
        "command" => &["icon"],
        "form" => &["action"],
        "frame" | "iframe" => &["longdesc", "src"],
        "head" => &["profile"],
        "html" => &["manifest"],
        "img" => &["longdesc", "src", "usemap"],
        "input" => &["src", "usemap", "formaction"],
        "object" => &["classid", "codebase", "data", "usemap"],
        "video" => &["poster", "src"],
        _ => &[],
    }
}

/// Takes what is rewritten.
type Sink = Box<dyn FnMut(&[u8]) + Send>;

/// A page that is being rewritten, piece by piece.
struct Page {
    rewriter: HtmlRewriter<'static, Sink>,
    ready: Arc<Mutex<Vec<u8>>>,
}

impl Page {
    fn new(links: Links) -> Self {
        let ready = Arc::<Mutex<Vec<u8>>>::default();
        let out = ready.clone();
        let sink: Sink =
            Box::new(move |bytes| out.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes));
        let rewrite = element!("*", move |element| {
            for name in attributes(&element.tag_name()) {
                if let Some(link) = element.get_attribute(name).and_then(|link| links.rewritten(&link)) {
                    element.set_attribute(name, &link)?;
                }
            }
            Ok(())
        });
        let settings = Settings::new_send().append_element_content_handler(rewrite);
        Self { rewriter: HtmlRewriter::new(settings, sink), ready }
    }

    fn taken(ready: &Mutex<Vec<u8>>) -> Bytes {
        std::mem::take(&mut *ready.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }

    fn write(&mut self, piece: &[u8]) -> Result<Bytes, RewritingError> {
        self.rewriter.write(piece)?;
        Ok(Self::taken(&self.ready))
    }

    fn end(self) -> Result<Bytes, RewritingError> {
        self.rewriter.end()?;
        Ok(Self::taken(&self.ready))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links { host: "10.0.0.1:80".into(), prefix: "/api/v1/namespaces/n/pods/p/proxy".into() }
    }

    async fn page(html: &'static str) -> String {
        let (one, two) = html.as_bytes().split_at(html.len() / 2);
        let pieces: [Result<Bytes, BoxError>; 2] = [Ok(Bytes::from_static(one)), Ok(Bytes::from_static(two))];
        let mut answer = Response::new(Body::stream(futures::stream::iter(pieces)));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        let body = links().in_answer(answer).into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn links_of_pages_stay_below_the_proxy() {
        assert_eq!(
            page(r#"<a href="/rewriteme">test</a><img src='x.png'> <b title="/no">"#).await,
            r#"<a href="/api/v1/namespaces/n/pods/p/proxy/rewriteme">test</a><img src='x.png'> <b title="/no">"#
        );
        assert_eq!(page("<p>1 < 2 & nothing to do").await, "<p>1 < 2 & nothing to do");
    }

    #[test]
    fn links_elsewhere_are_left_alone() {
        let prefix = links().prefix;
        let rewritten = |link: &str| links().rewritten(link);
        assert_eq!(rewritten("http://10.0.0.1:80/a?b"), Some(format!("{prefix}/a?b")));
        for same in ["a/b", "#top", "http://example.com/", "//cdn/x", "mailto:a@b", &format!("{prefix}/a")] {
            assert_eq!(rewritten(same), None, "{same}");
        }
    }

    #[test]
    fn redirects_lead_below_the_proxy() {
        let mut answer = Response::new(Body::Empty);
        answer.headers_mut().insert(LOCATION, HeaderValue::from_static("/login"));
        let to = links().in_answer(answer).headers()[LOCATION].clone();
        assert_eq!(to, format!("{}/login", links().prefix));
    }
}
