//! The path of a request, from top to bottom:
//!
//! panic guard -> audit id -> what is asked for -> who is it -> audit -> as whom -> whose turn is it -> may they ->
//! verb (body -> admission -> validation -> store) -> answer.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response};
use tokio::time::Instant;
use xebec_schema::resource::Resource;
use xebec_schema::status::{Details, Status};

use crate::authn::UserInfo;
use crate::authn::impersonation::impersonate;
use crate::authz::{Attributes, Decision, forbidden};
use crate::body::{Body, RequestBody};
use crate::cache::resource::ResourceCache;
use crate::computed::{self, ComputedApi};
use crate::query::Query;
use crate::request::{self, ResourcePath, Target};
use crate::respond::{self, Wanted};
use crate::server::{InProcessUser, Shared};
use crate::trail::Trail;
use crate::verbs::conversions::Conversions;
use crate::verbs::create::store_error;
use crate::{aggregation, cache, discovery, subresource, verbs, versions, virtual_kinds, warnings};

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// How long a request may take until its answer begins (`--request-timeout`).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// While the server is starting, who is not known is asked again for this long, and this often.
const START_PATIENCE: Duration = Duration::from_secs(1);
const START_PAUSE: Duration = Duration::from_millis(10);

/// A request for a resource, on its way.
pub struct Call {
    /// The server.
    pub server: Arc<Shared>,
    /// Who asks.
    pub user: UserInfo,
    /// For which objects.
    pub path: ResourcePath,
    /// The row of the kind, in the version that is asked for.
    pub resource: Arc<Resource>,
    /// The row of the kind, in the version that is stored.
    pub stored: Arc<Resource>,
    /// The query parameters.
    pub query: Query,
    /// How the answer is to look.
    pub wanted: Wanted,
    /// The request without its body.
    pub parts: Parts,
    /// Shown to the client.
    pub warnings: Vec<String>,
    /// Noted in the audit log.
    pub annotations: BTreeMap<String, String>,
    /// The object in other versions, as far as a webhook has converted it.
    pub conversions: Conversions,
}

impl Call {
    /// What is stored of the kind.
    ///
    /// # Errors
    ///
    /// 404 for a kind that is not stored.
    pub fn cache(&self) -> Result<Arc<ResourceCache>, Status> {
        self.server.cache.resource(&self.stored.group, &self.stored.plural).ok_or_else(Status::no_such_path)
    }

    /// The namespace that the objects are in; empty for kinds without namespaces. (The path of a Namespace names it
    /// as a namespace, too.)
    pub fn namespace(&self) -> &str {
        if self.resource.namespaced { &self.path.namespace } else { "" }
    }

    /// The key of the object that the path names.
    pub fn key(&self) -> String {
        cache::key(self.namespace(), &self.path.name)
    }

    /// 404 for the object that the path names.
    pub fn not_found(&self) -> Status {
        Status::not_found(&self.resource.group, &self.resource.plural, &self.path.name)
    }
}

/// Answers a request.
pub async fn handle(server: Arc<Shared>, request: Request<RequestBody>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let audit_id = parts.headers.get(AUDIT_ID).cloned();
    let audit_id = audit_id.or_else(|| HeaderValue::from_str(&server.random.uuid()).ok());
    let query = Query::parse(parts.uri.query());
    let wanted = Wanted::of(&parts.headers, &query);
    let (mut trail, mut panicked) = (Trail::new(), false);

    let served = serve(server.clone(), parts, body, query, wanted.clone(), audit_id.as_ref(), &mut trail);
    let result = AssertUnwindSafe(served).catch_unwind().await.unwrap_or_else(|_| {
        panicked = true;
        tracing::error!("a request panicked; this is a bug");
        Err(Status::internal("apiserver panicked while handling the request; see its log"))
    });

    let wanted = wanted.unwrap_or_else(|_| Wanted::plain());
    let response = result.unwrap_or_else(|status| respond::status(&status, wanted));
    let response = trail.finish(&server, response, panicked);
    let mut response = respond::compress(response, wanted.gzip);
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    if let Some(id) = audit_id {
        headers.insert(AUDIT_ID, id);
    }
    response
}

async fn serve(
    server: Arc<Shared>,
    parts: Parts,
    body: RequestBody,
    query: Query,
    wanted: Result<Wanted, Status>,
    audit_id: Option<&HeaderValue>,
    trail: &mut Trail,
) -> Result<Response<Body>, Status> {
    let registry = server.registry.load_full();
    let target = request::parse(&registry, &parts.method, parts.uri.path(), &query);
    // Before authentication, which is to see the newest state, too; what comes of it is told after the request is noted.
    let current = match &target {
        Target::Resource(_) if !names_state(&query) => server.cache.current().await,
        _ => Ok(()),
    };
    let caller = authenticate(&server, &parts).await;
    trail.begin(&server, &target, caller.as_ref().ok(), (&parts, &query), audit_id);
    current.map_err(|error| store_error(&error))?;
    let caller = caller?;
    let user = impersonate(&caller, &parts.headers, &*server.authorization).await?;
    trail.served_as(&user, &caller);
    let attributes = target.attributes(&user, &parts.method, parts.uri.path());
    let _ticket = match trail.enter(&server, &attributes, &query).await {
        Ok(ticket) => ticket,
        Err(too_many) => return Ok(too_many),
    };
    let decision = server.authorization.authorize(&attributes).await;
    trail.decided(&decision);
    permitted(&attributes, decision).map_err(|refused| unless_starting(&server, refused))?;

    if let Some(remote) = server.aggregated.of_path(parts.uri.path()) {
        return Ok(aggregation::proxy::serve(&remote, &user, parts, body, &server.stop).await);
    }
    let path = match target {
        Target::Path => return discovery::serve(&server, &parts, &query, wanted).await,
        Target::Resource(path) => *path,
    };
    let computed = |api: &&Arc<dyn ComputedApi>| api.group() == path.group && api.version() == path.version;
    if let Some(api) = server.extensions.apis.iter().find(computed) {
        let wanted = wanted.unwrap_or_else(|_| Wanted::plain());
        return computed::serve(api, &path, &query, wanted, &server.clock, &server.stop).await;
    }
    let resource = path.resource.clone().ok_or_else(Status::no_such_path)?;
    check_scope(&resource, &path)?;
    let stored = versions::stored(&registry, &resource);
    let (warnings, annotations) = (Vec::new(), BTreeMap::new());
    let wanted = if path.subresource.is_empty() {
        wanted?.of_kind(&resource)?
    } else {
        wanted.unwrap_or_else(|_| Wanted::plain())
    };
    let conversions = Conversions::default();
    let mut call =
        Call { server, user, path, resource, stored, query, wanted, parts, warnings, annotations, conversions };
    call.warnings.extend(call.resource.custom.iter().filter_map(|custom| custom.deprecation().map(str::to_owned)));
    let body = trail.sent(&call.parts, call.resource.definition(), body).await?;
    // Streams take as long as they take.
    let stream = matches!(call.path.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy");
    let mut response = if stream {
        dispatch(&mut call, body).await
    } else {
        let slow = || Err(Status::new(504, "Timeout", "Timeout: request did not complete within the allotted timeout"));
        tokio::time::timeout(REQUEST_TIMEOUT, dispatch(&mut call, body)).await.unwrap_or_else(|_| slow())
    };
    trail.annotate(&call.annotations);
    if !call.warnings.is_empty() {
        let failed = response.unwrap_or_else(|status| respond::status(&status, call.wanted));
        response = Ok(warnings::add(failed, &call.warnings));
    }
    response
}

/// Whether a request says itself which state it wants to see. All others see what was acknowledged before they came, by
/// whichever server.
fn names_state(query: &Query) -> bool {
    !query.get("resourceVersion").is_empty() || !query.get("continue").is_empty()
}

/// Who asks. While the server is starting, who is not known yet is asked again for a while: clients that are told to come
/// back wait longer than the start takes.
async fn authenticate(server: &Shared, parts: &Parts) -> Result<UserInfo, Status> {
    if let Some(InProcessUser(user)) = parts.extensions.get::<InProcessUser>() {
        return Ok(UserInfo::clone(user));
    }
    let begun = Instant::now();
    loop {
        let refused = match server.authentication.caller(parts).await {
            Ok(user) => return Ok(user),
            Err(refused) => refused,
        };
        if starting(server).is_none() || begun.elapsed() >= START_PATIENCE {
            return Err(unless_starting(server, refused));
        }
        tokio::time::sleep(START_PAUSE).await;
    }
}

/// What the server is still waiting for, if it is starting: until the first objects are there, it knows neither whom nor what
/// a cluster lets in.
fn starting(server: &Shared) -> Option<String> {
    server.extensions.started.as_ref().and_then(|started| started().err())
}

/// A refusal, or the request to come back.
fn unless_starting(server: &Shared, refused: Status) -> Status {
    let Some(why) = starting(server) else { return refused };
    let mut status = Status::new(503, "ServiceUnavailable", format!("the server is starting: {why}"));
    status.details = Some(Box::new(Details { retry_after_seconds: 1, ..Details::default() }));
    status
}

/// May they? Nobody permits it: no.
///
/// # Errors
///
/// 403 in upstream's words.
pub async fn authorize(server: &Shared, attributes: &Attributes) -> Result<(), Status> {
    permitted(attributes, server.authorization.authorize(attributes).await)
}

fn permitted(attributes: &Attributes, decision: Decision) -> Result<(), Status> {
    match decision {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(forbidden(attributes, &reason)),
        Decision::Failed { why, .. } => {
            Err(Status::internal(format!("Internal Server Error: {:?}: {why}", attributes.path)))
        }
    }
}

/// A kind without namespaces is not found in one, and an object of a kind with namespaces not outside.
fn check_scope(resource: &Resource, path: &ResourcePath) -> Result<(), Status> {
    let own_namespace = resource.plural == "namespaces" && resource.group.is_empty();
    let in_namespace = !path.namespace.is_empty() && !own_namespace;
    let collection = matches!(path.verb, "list" | "watch") || resource.virtual_kind;
    let misplaced = in_namespace != resource.namespaced && !(resource.namespaced && collection);
    if misplaced { Err(Status::no_such_path()) } else { Ok(()) }
}

async fn dispatch(call: &mut Call, body: RequestBody) -> Result<Response<Body>, Status> {
    if call.resource.virtual_kind {
        return virtual_kinds::serve(call, body).await;
    }
    if !call.path.subresource.is_empty() {
        return subresource::serve(call, body).await;
    }
    let named = !call.path.name.is_empty();
    let misdirected = match call.path.verb {
        "create" => named,
        "get" | "update" | "patch" | "delete" => !named,
        // A field selector may have named the only object of the collection.
        _ => false,
    };
    if !call.resource.allows(call.path.verb) || misdirected {
        return Err(Status::method_not_allowed());
    }
    let ends = call.resource.custom.as_ref().is_some_and(|custom| custom.is_terminating());
    if ends && call.path.verb == "create" {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(Status::forbidden(&call.resource.group, &call.resource.plural, &call.path.name, why));
    }
    match call.path.verb {
        "get" => verbs::get::serve(call).await,
        "list" => verbs::list::serve(call).await,
        "watch" => verbs::watch::serve(call).await,
        "create" => verbs::create::serve(call, body).await,
        "update" => verbs::update::serve(call, body).await,
        "patch" => verbs::patch::serve(call, body).await,
        "delete" => verbs::delete::serve(call, body).await,
        "deletecollection" => verbs::deletecollection::serve(call, body).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// Whether a method only reads.
pub fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}
