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
        let (form, yaml, beta) = negotiate(headers, query)?;
        let pretty = query.maybe_flag("pretty").unwrap_or_else(|| {
            // People with curl get something they can read.
            let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
            ["curl/", "Wget/", "Mozilla/5.0"].iter().any(|tool| agent.starts_with(tool))
        });
        let gzip = headers.get(ACCEPT_ENCODING).is_some_and(|header| accepts(header, "gzip"));
        Ok(Self { form, yaml, pretty, gzip, beta })
    }

    /// What is served when the headers cannot be understood: plain JSON.
    pub fn plain() -> Self {
        Self { form: Form::Object, yaml: false, pretty: false, gzip: false, beta: false }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(if self.yaml { "application/yaml" } else { "application/json" })
    }
}

/// The first media range of `Accept` that we can serve.
fn negotiate(headers: &HeaderMap, query: &Query) -> Result<(Form, bool, bool), Status> {
    let mut any = false;
    for range in headers.get_all(ACCEPT).iter().filter_map(|h| h.to_str().ok()).flat_map(|h| h.split(',')) {
        any = true;
        let mut parts = range.split(';').map(str::trim);
        let yaml = match parts.next().unwrap_or_default() {
            "application/json" | "*/*" | "application/*" | "" => false,
            "application/yaml" => true,
            _ => continue,
        };
        let mut parameters = ["", "", ""];
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            if let Some(at) = ["as", "g", "v"].iter().position(|k| *k == key) {
                parameters[at] = value;
            }
        }
        let (form, beta) = match parameters {
            ["", ..] => (Form::Object, false),
            ["Table", "meta.k8s.io", version @ ("v1" | "v1beta1")] => {
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
        return Ok((form, yaml, beta));
    }
    if any {
        let message = "only the following media types are accepted: application/json, application/yaml";
        return Err(Status::new(406, "NotAcceptable", message));
    }
    Ok((Form::Object, false, false))
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
    if wanted.form == Form::Object && !wanted.yaml && !wanted.pretty {
        return finish(code, bytes, wanted);
    }
    match shown(resource, &bytes, wanted, now) {
        Ok(bytes) if !wanted.yaml && !wanted.pretty => finish(code, bytes, wanted),
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
        assert_eq!((typed.form, typed.yaml), (Form::Object, false));
        assert!(wanted("application/yaml").unwrap().yaml);
        assert_eq!(wanted("application/vnd.kubernetes.protobuf").unwrap_err().code, 406);
        let unknown = wanted("application/json;as=Nonsense;v=v1;g=meta.k8s.io").unwrap_err();
        assert_eq!(unknown.reason, "NotAcceptable");
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
