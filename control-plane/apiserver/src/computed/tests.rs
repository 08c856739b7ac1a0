use http::Method;
use http_body_util::BodyExt as _;
use xebec_schema::registry::Registry;
use xebec_schema::table::Include;

use super::*;
use crate::request::{self, Target};

/// Asks a computed API as the chain does.
pub(crate) struct Server {
    api: Arc<dyn ComputedApi>,
    registry: Registry,
    stop: CancellationToken,
}

impl Server {
    pub(crate) fn new(api: Arc<dyn ComputedApi>) -> Self {
        Self { api, registry: Registry::builtin(), stop: CancellationToken::new() }
    }

    async fn answer(&self, path: &str, query: &str, wanted: Wanted) -> Result<Response<Body>, Status> {
        let query = Query::parse(Some(query));
        let Target::Resource(path) = request::parse(&self.registry, &Method::GET, path, &query) else {
            panic!("{path} is no resource")
        };
        serve(&self.api, &path, &query, wanted, &Clock::system(), &self.stop).await
    }

    pub(crate) async fn get(&self, path: &str, query: &str, wanted: Wanted) -> Result<Value, Status> {
        let answer = self.answer(path, query, wanted).await?;
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        Ok(serde_json::from_slice(&body).unwrap())
    }
}

const KINDS: &[ComputedKind] = &[ComputedKind {
    plural: "things",
    kind: "Thing",
    short_names: &["th"],
    namespaced: true,
    watched: true,
    columns: &[],
    fields: |object| vec![("color", text(object, "/color").to_owned())],
    schema: || {
        let color = openapi::text("What color the thing has.");
        openapi::object("A thing.", &json!({"color": color}))
    },
}];

/// Three things; a watch shows a fourth after another version.
struct Things;

fn thing(name: &str, namespace: &str, color: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace}, "color": color})
}

#[async_trait]
impl ComputedApi for Things {
    fn group(&self) -> &'static str {
        "example.com"
    }

    fn version(&self) -> &'static str {
        "v1"
    }

    fn kinds(&self) -> &'static [ComputedKind] {
        KINDS
    }

    async fn list(&self, selection: &Selection) -> Result<Page, Status> {
        let all = [thing("a", "n", "red"), thing("b", "n", "blue"), thing("c", "m", "red")];
        let of =
            |thing: &Value| selection.namespace.is_empty() || text(thing, "/metadata/namespace") == selection.namespace;
        let after = |thing: &Value| text(thing, "/metadata/name") > selection.after.as_str();
        let mut items: Vec<Value> = all.into_iter().filter(of).filter(after).collect();
        let more = selection.limit.is_some_and(|limit| items.len() > limit);
        items.truncate(selection.limit.unwrap_or(usize::MAX));
        let next = if more { text(&items[items.len() - 1], "/metadata/name").to_owned() } else { String::new() };
        Ok(Page { items, resource_version: "7".to_owned(), next })
    }

    fn watch(&self, selection: &Selection) -> Result<BoxStream<'static, Value>, Status> {
        let known = [thing("d", "n", "red"), thing("e", "n", "blue"), thing("f", "n", "red")];
        assert_eq!(selection.after, "7");
        Ok(futures::stream::iter(known).chain(futures::stream::pending()).boxed())
    }
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| text(item, "/metadata/name")).collect()
}

#[tokio::test]
async fn lists_have_pages_and_selectors() {
    let server = Server::new(Arc::new(Things));
    let get = async |path: &str, query: &str| {
        server.get(&format!("/apis/example.com/v1/{path}"), query, Wanted::plain()).await.unwrap()
    };
    let all = get("things", "").await;
    assert_eq!((names(&all), &all["metadata"]), (vec!["a", "b", "c"], &json!({"resourceVersion": "7"})));
    assert_eq!(names(&get("namespaces/n/things", "").await), ["a", "b"]);
    assert_eq!(names(&get("things", "fieldSelector=color%3Dred,metadata.namespace%3Dn").await), ["a"]);
    let first = get("things", "limit=2").await;
    assert_eq!((names(&first), &first["metadata"]["continue"]), (vec!["a", "b"], &json!("b")));
    let second = get("things", "limit=2&continue=b").await;
    assert_eq!((names(&second), &second["metadata"]["continue"]), (vec!["c"], &Value::Null));
    let partial = Wanted { form: Form::Partial, ..Wanted::plain() };
    let partial = server.get("/apis/example.com/v1/namespaces/n/things/a", "", partial).await.unwrap();
    assert_eq!((&partial["kind"], &partial["color"]), (&json!("PartialObjectMetadata"), &Value::Null));
}

/// What comes is shown as it comes, until the time is over or the server stops; a table's columns come once.
#[tokio::test(start_paused = true)]
async fn a_watch_shows_what_comes() {
    let server = Server::new(Arc::new(Things));
    let query = "watch=true&resourceVersion=7&timeoutSeconds=5&fieldSelector=color%3Dred";
    let events = async |wanted: Wanted| -> Vec<Value> {
        let answer = server.answer("/apis/example.com/v1/namespaces/n/things", query, wanted).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        body.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    };
    let began = tokio::time::Instant::now();
    let shown = events(Wanted::plain()).await;
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!(shown.iter().map(|event| text(event, "/object/metadata/name")).collect::<Vec<_>>(), ["d", "f"]);
    assert_eq!((&shown[0]["type"], &shown[0]["object"]["kind"]), (&json!("ADDED"), &json!("Thing")));
    let shown = events(Wanted { form: Form::Table(Include::None), ..Wanted::plain() }).await;
    assert!(shown[0]["object"]["columnDefinitions"].is_array() && shown[1]["object"]["columnDefinitions"].is_null());
    server.stop.cancel();
    assert_eq!(events(Wanted::plain()).await, Vec::<Value>::new());
}

/// A client finds a kind by its group, version and kind, and in it the fields that all objects have and its own.
#[test]
fn kinds_explain_themselves() {
    let document = openapi::document(&Things);
    let thing = &document["components"]["schemas"]["com.example.v1.Thing"];
    assert_eq!(
        thing["x-kubernetes-group-version-kind"],
        json!([{"group": "example.com", "version": "v1", "kind": "Thing"}])
    );
    assert_eq!(thing["description"], "A thing.");
    assert_eq!(thing["properties"]["color"]["description"], "What color the thing has.");
    let metadata = thing["properties"]["metadata"]["allOf"][0]["$ref"].as_str().unwrap();
    assert!(document["components"]["schemas"].get(metadata.rsplit('/').next().unwrap()).is_some(), "{metadata}");
    let paths = document["paths"].as_object().unwrap();
    let one = &paths["/apis/example.com/v1/namespaces/{namespace}/things/{name}"];
    assert!(one["get"].is_object() && one["put"].is_null() && one["delete"].is_null());
    let list =
        &paths["/apis/example.com/v1/things"]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
    assert_eq!(list["$ref"], "#/components/schemas/com.example.v1.ThingList");
    assert!(document["components"]["schemas"]["com.example.v1.ThingList"].is_object());
}
