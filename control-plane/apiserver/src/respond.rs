//! Answers: which form and encoding the client wants, and how objects get there.

use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT, VARY,
};
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use xebec_schema::protobuf;
use xebec_schema::resource::Resource;
use xebec_schema::status::Status;
use xebec_schema::table::{self, Include};

use crate::body::{Body, BoxError};
use crate::query::Query;

/// Bodies at least this large, in bytes, are compressed for clients that accept it (apiserver
/// `defaultGzipThresholdBytes`).
const GZIP_THRESHOLD_BYTES: u64 = 128 << 10;

/// What objects are shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Themselves.
    Object,
    /// `meta.k8s.io/v1 PartialObjectMetadata`.
    Partial,
    /// `meta.k8s.io/v1 Table`.
    Table(Include),
}

impl Form {
    /// A number for each form.
    pub fn number(self) -> u8 {
        match self {
            Self::Object => 0,
            Self::Partial => 1,
            Self::Table(Include::Full) => 2,
            Self::Table(Include::Metadata) => 3,
            Self::Table(Include::None) => 4,
        }
    }
}

/// How a client wants its answer.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The form of objects.
    pub form: Form,
    /// YAML instead of JSON.
    pub yaml: bool,
    /// Protobuf instead of JSON.
    pub protobuf: bool,
    /// JSON will do where there is no protobuf form.
    pub json: bool,
    /// Indented.
    pub pretty: bool,
    /// Large bodies may be compressed.
    pub gzip: bool,
    /// The deprecated `v1beta1` of `meta.k8s.io`.
    pub beta: bool,
}

impl Wanted {
    /// Reads the headers, and `pretty` and `includeObject` of the query.
    ///
    /// # Errors
    ///
    /// 406 if there is no form and encoding that we have and the client takes.
    pub fn of(headers: &HeaderMap, query: &Query) -> Result<Self, Status> {
        let accepts = |header: &HeaderValue, what: &str| header.to_str().is_ok_and(|text| text.contains(what));
        let Negotiated { form, encoding, beta, json } = negotiate(headers, query)?;
        let pretty = query.maybe_flag("pretty").unwrap_or_else(|| {
            // People with curl get something they can read.
            let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
            ["curl/", "Wget/", "Mozilla/5.0"].iter().any(|tool| agent.starts_with(tool))
        });
        let gzip = headers.get(ACCEPT_ENCODING).is_some_and(|header| accepts(header, "gzip"));
        let (yaml, protobuf) = (encoding == Encoding::Yaml, encoding == Encoding::Protobuf);
        Ok(Self { form, yaml, protobuf, json, pretty: pretty && !protobuf, gzip, beta })
    }

    /// What is served when the headers cannot be understood: plain JSON.
    pub fn plain() -> Self {
        Self { form: Form::Object, yaml: false, protobuf: false, json: true, pretty: false, gzip: false, beta: false }
    }

    /// The same for what has no protobuf form.
    #[must_use]
    pub fn as_json(self) -> Self {
        Self { protobuf: false, json: true, ..self }
    }

    /// What the client gets of a kind: JSON where there is no protobuf form.
    ///
    /// # Errors
    ///
    /// 406 if it takes nothing else.
    pub fn of_kind(self, resource: &Resource) -> Result<Self, Status> {
        if !self.protobuf || self.form != Form::Object || protobuf::speaks(resource) {
            Ok(self)
        } else if self.json {
            Ok(self.as_json())
        } else {
            Err(not_acceptable("application/json, application/yaml"))
        }
    }

    /// What the client gets of a kind that has no tables (reviews): the object, where that will do.
    ///
    /// # Errors
    ///
    /// 406 if it takes nothing but tables.
    pub fn without_tables(self) -> Result<Self, Status> {
        match self.form {
            Form::Table(_) if self.json => Ok(Self { form: Form::Object, ..self.as_json() }),
            Form::Table(_) => Err(not_acceptable(ALL_TYPES)),
            _ => Ok(self),
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self { protobuf: true, .. } => PROTOBUF,
            Self { yaml: true, .. } => "application/yaml",
            _ => "application/json",
        })
    }
}

/// Every encoding of objects.
const ALL_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

fn not_acceptable(types: &str) -> Status {
    Status::new(406, "NotAcceptable", format!("only the following media types are accepted: {types}"))
}

/// What Go clients ask for.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

/// What came of `Accept`.
struct Negotiated {
    form: Form,
    encoding: Encoding,
    beta: bool,
    /// JSON is accepted, too.
    json: bool,
}

/// A media range of `Accept`: its type, its parameters and how much it is liked, in thousandths.
struct Range<'a> {
    kind: &'a str,
    parameters: [&'a str; 3],
    quality: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let mut range = Self { kind: parts.next().unwrap_or_default(), parameters: ["", "", ""], quality: 1000 };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            if let Some(at) = ["as", "g", "v"].iter().position(|k| *k == key) {
                range.parameters[at] = value;
            } else if key == "q" {
                let quality = value.parse::<f32>().unwrap_or(1.0).clamp(0.0, 1.0);
                range.quality = (quality * 1000.0) as u16;
            }
        }
        range
    }

    fn encoding(&self) -> Option<Encoding> {
        match self.kind {
            "application/json" | "*/*" | "application/*" | "" => Some(Encoding::Json),
            "application/yaml" => Some(Encoding::Yaml),
            PROTOBUF => Some(Encoding::Protobuf),
            _ => None,
        }
    }
}

/// The media range of `Accept` that is liked best of those that we can serve; among equals, the first.
fn negotiate(headers: &HeaderMap, query: &Query) -> Result<Negotiated, Status> {
    let texts = headers.get_all(ACCEPT).iter().filter_map(|h| h.to_str().ok());
    let mut ranges: Vec<Range<'_>> = texts.flat_map(|text| text.split(',')).map(Range::parse).collect();
    if ranges.is_empty() {
        return Ok(Negotiated { form: Form::Object, encoding: Encoding::Json, beta: false, json: true });
    }
    ranges.retain(|range| range.quality > 0);
    ranges.sort_by_key(|range| std::cmp::Reverse(range.quality));
    let json = ranges.iter().any(|r| r.encoding() == Some(Encoding::Json) && r.parameters[0].is_empty());
    for range in &ranges {
        let Some(encoding) = range.encoding() else { continue };
        let (form, beta) = match range.parameters {
            ["", ..] => (Form::Object, false),
            // Tables have no protobuf form.
            ["Table", "meta.k8s.io", version @ ("v1" | "v1beta1")] if encoding != Encoding::Protobuf => {
                let include = Include::parse(query.get("includeObject")).ok_or_else(|| {
                    Status::bad_request(format!(
                        "invalid value \"{}\" for includeObject: must be \"None\", \"Metadata\" or \"Object\"",
                        query.get("includeObject")
                    ))
                })?;
                (Form::Table(include), version == "v1beta1")
            }
            ["PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", version @ ("v1" | "v1beta1")] => {
                (Form::Partial, version == "v1beta1")
            }
            _ => continue,
        };
        return Ok(Negotiated { form, encoding, beta, json });
    }
    Err(not_acceptable(ALL_TYPES))
}

/// An answer of JSON that is the same for everybody: no form, no pretty-printing.
pub fn json(code: u16, value: &Value) -> Response<Body> {
    raw(code, "application/json", value.to_string().into_bytes())
}

/// An answer as it is.
pub fn raw(code: u16, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An error.
pub fn status(status: &Status, wanted: Wanted) -> Response<Body> {
    let mut response = encoded(status.code, &status.to_value(), wanted);
    let retry = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    if retry > 0 {
        response.headers_mut().insert(RETRY_AFTER, retry.into());
    }
    response
}

/// A value in the encoding that is wanted, whatever the form.
pub fn encoded(code: u16, value: &Value, wanted: Wanted) -> Response<Body> {
    if wanted.protobuf {
        return match protobuf::encode(value) {
            Some(bytes) => finish(code, bytes, wanted),
            None => encoded(code, value, wanted.as_json()),
        };
    }
    let bytes = if wanted.yaml {
        match serde_saphyr::to_string(value) {
            Ok(text) => text.into_bytes(),
            Err(error) => return json(500, &Status::internal(error).to_value()),
        }
    } else if wanted.pretty {
        let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
        text.push(b'\n');
        text
    } else {
        let mut text = value.to_string().into_bytes();
        text.push(b'\n');
        text
    };
    finish(code, bytes, wanted)
}

/// Bytes that are in the wanted encoding already.
fn finish(code: u16, bytes: impl Into<Body>, wanted: Wanted) -> Response<Body> {
    let mut response = Response::new(bytes.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, wanted.content_type());
    response
}

/// An object of `resource`, whose served bytes these are, in the form that is wanted.
pub fn object(code: u16, resource: &Resource, bytes: Bytes, wanted: Wanted, now: Timestamp) -> Response<Body> {
    let as_it_is = !wanted.yaml && !wanted.protobuf && !wanted.pretty;
    if wanted.form == Form::Object && as_it_is {
        return finish(code, bytes, wanted);
    }
    match shown(resource, &bytes, wanted, now) {
        Ok(bytes) if as_it_is => finish(code, bytes, wanted),
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(value) => encoded(code, &value, wanted),
            Err(error) => status(&Status::internal(error), wanted),
        },
        Err(error) => status(&Status::internal(error), wanted),
    }
}

/// An object's JSON in a form.
///
/// # Errors
///
/// The bytes are no object.
pub fn shown(resource: &Resource, bytes: &Bytes, wanted: Wanted, now: Timestamp) -> Result<Bytes, serde_json::Error> {
    match wanted.form {
        Form::Object => Ok(bytes.clone()),
        Form::Partial => partial(bytes, wanted.beta),
        Form::Table(include) => {
            let object: Value = serde_json::from_slice(bytes)?;
            let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            let mut table = table::render(resource, [&object], now, include, metadata);
            if wanted.beta {
                table["apiVersion"] = "meta.k8s.io/v1beta1".into();
            }
            Ok(table.to_string().into())
        }
    }
}

/// The `PartialObjectMetadata` of an object.
pub fn partial(bytes: &[u8], beta: bool) -> Result<Bytes, serde_json::Error> {
    #[derive(Deserialize)]
    struct Partial<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let metadata = serde_json::from_slice::<Partial<'_>>(bytes)?.metadata.get();
    let version: &[u8] = if beta { b"v1beta1" } else { b"v1" };
    let mut out = BytesMut::with_capacity(metadata.len() + 96);
    out.put_slice(b"{\"metadata\":");
    out.put_slice(metadata.as_bytes());
    out.put_slice(b",\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/");
    out.put_slice(version);
    out.put_slice(b"\"}");
    Ok(out.freeze())
}

/// Compresses a large body, if the client takes that. Bodies of unknown length (watches, logs) stay as they are.
pub fn compress(mut response: Response<Body>, wanted: bool) -> Response<Body> {
    let size = match response.body() {
        Body::Empty => 0,
        Body::Full(bytes) => bytes.len() as u64,
        Body::Stream(_, size) => size.unwrap_or(0),
    };
    if !wanted || size < GZIP_THRESHOLD_BYTES || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
    response.map(|body| {
        let mut pieces = match body {
            Body::Empty => futures::stream::empty().boxed(),
            Body::Full(bytes) => futures::stream::iter([Ok(bytes)]).boxed(),
            Body::Stream(stream, _) => stream,
        };
        Body::stream(async_stream::try_stream! {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            while let Some(piece) = pieces.next().await {
                encoder.write_all(&piece?).map_err(BoxError::from)?;
                if encoder.get_ref().len() >= 32 << 10 {
                    yield Bytes::from(std::mem::take(encoder.get_mut()));
                }
            }
            yield Bytes::from(encoder.finish().map_err(BoxError::from)?);
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(accept: &str) -> Result<Wanted, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        Wanted::of(&headers, &Query::default())
    }

    #[test]
    fn the_first_form_we_have_is_taken() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(wanted(table).unwrap().form, Form::Table(Include::Metadata));
        let typed = wanted("application/vnd.kubernetes.protobuf, application/json").unwrap();
        assert_eq!((typed.form, typed.protobuf, typed.json), (Form::Object, true, true));
        assert!(wanted("application/yaml").unwrap().yaml);
        let only = wanted("application/vnd.kubernetes.protobuf").unwrap();
        assert_eq!((only.protobuf, only.json), (true, false));
        let metadata =
            wanted("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").unwrap();
        assert_eq!((metadata.form, metadata.protobuf), (Form::Partial, true));
        let unknown = wanted("application/json;as=Nonsense;v=v1;g=meta.k8s.io").unwrap_err();
        assert_eq!(unknown.reason, "NotAcceptable");
        assert_eq!(wanted("application/cbor").unwrap_err().code, 406);
        assert!(!wanted("application/cbor, application/json;q=0.5").unwrap().protobuf);
    }

    #[test]
    fn what_is_liked_best_is_served() {
        let accept = "application/json;q=0.4, application/vnd.kubernetes.protobuf;q=0.9, application/yaml;q=0.1";
        assert!(wanted(accept).unwrap().protobuf);
        let accept = "application/vnd.kubernetes.protobuf;q=0.2, application/json";
        assert!(!wanted(accept).unwrap().protobuf);
        assert_eq!(wanted("application/json;q=0").unwrap_err().code, 406);
    }

    #[test]
    fn partial_metadata_is_cut_out() {
        let bytes = partial(br#"{"metadata":{"name":"a"},"kind":"Pod","spec":{}}"#, false).unwrap();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            value,
            json!({"metadata": {"name": "a"}, "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"})
        );
    }
}
