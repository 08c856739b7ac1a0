use super::*;
use crate::runtime::plan::Verb;

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn set(image: &str, strategy: &Value) -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": {"name": "agent", "namespace": "n", "uid": "d", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "updateStrategy": strategy, "template": {
            "metadata": {"labels": {"app": "agent"}},
            "spec": {"nodeSelector": {"os": "linux"}, "containers": [{"name": "c", "image": image}]}}},
    }))
    .unwrap()
}

fn node(name: &str, patch: &Value) -> Arc<Node> {
    let mut value = json!({"metadata": {"name": name, "labels": {"os": "linux"}}, "spec": {}});
    for (key, fields) in patch.as_object().into_iter().flatten() {
        for (field, to) in fields.as_object().unwrap() {
            value[key][field] = to.clone();
        }
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

struct World {
    set: DaemonSet,
    nodes: Vec<Arc<Node>>,
    pods: BTreeMap<String, Value>,
    revisions: Vec<Value>,
    made: usize,
}

impl World {
    fn new(strategy: &Value, nodes: &[&str]) -> Self {
        Self {
            set: set("i:1", strategy),
            nodes: nodes.iter().map(|name| node(name, &json!({}))).collect(),
            pods: BTreeMap::new(),
            revisions: Vec::new(),
            made: 0,
        }
    }

    fn step(&mut self) -> Vec<String> {
        let read = |value: &Value| Arc::new(serde_json::from_value(value.clone()).unwrap());
        let pods: Vec<Arc<Pod>> = self.pods.values().map(read).collect();
        let revisions: Vec<Arc<ControllerRevision>> =
            self.revisions.iter().map(|value| Arc::new(serde_json::from_value(value.clone()).unwrap())).collect();
        let view = View { set: &self.set, pods: &pods, nodes: &self.nodes, revisions: &revisions };
        let plan = plan(&view, now());
        let mut done = Vec::new();
        for action in plan.actions() {
            let Action::Write(write) = action else { continue };
            match &write.verb {
                Verb::Create(body) if write.kind.kind == "Pod" => {
                    let mut body = body.clone();
                    let terms =
                        &body["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
                    let node =
                        terms["nodeSelectorTerms"][0]["matchFields"][0]["values"][0].as_str().unwrap().to_owned();
                    self.made += 1;
                    let name = format!("{node}-{}", self.made);
                    body["metadata"]["name"] = name.as_str().into();
                    body["metadata"]["uid"] = name.as_str().into();
                    body["metadata"]["creationTimestamp"] = format!("2026-01-01T00:00:{:02}Z", self.made).into();
                    self.pods.insert(name.clone(), body);
                    done.push(format!("+{name}"));
                }
                Verb::Create(body) => self.revisions.push(body.clone()),
                Verb::Delete(_) => {
                    self.pods.remove(&write.name);
                    done.push(format!("-{}", write.name));
                }
                Verb::Patch("status", _, patch) => {
                    self.set.status = serde_json::from_value(patch["status"].clone()).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
        done
    }

    fn ready(&mut self) {
        for pod in self.pods.values_mut() {
            pod["status"] = json!({"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        }
    }

    fn settle(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        for _ in 0..50 {
            let before = self.set.status.clone();
            let step = self.step();
            self.ready();
            if step.is_empty() && before == self.set.status {
                return done;
            }
            done.extend(step);
        }
        panic!("no end: {done:?}");
    }
}

fn rolling() -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
}

#[test]
fn a_pod_on_every_node_that_can_take_it() {
    let mut world = World::new(&rolling(), &["a", "b"]);
    world.nodes.push(node("other", &json!({"metadata": {"labels": {"os": "windows"}}})));
    world.nodes.push(node(
        "cordoned",
        &json!({"spec": {"taints": [
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}}),
    ));
    world.nodes.push(node("reserved", &json!({"spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}})));
    assert_eq!(world.step(), ["+a-1", "+b-2", "+cordoned-3"]);
    world.settle();
    let status = &world.set.status;
    assert_eq!((status.desired_number_scheduled, status.number_available, status.number_misscheduled), (3, 3, 0));
    let pod = &world.pods["a-1"];
    assert!(pod["metadata"]["labels"][HASH_LABEL].is_string());
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 6);
    // A taint that keeps others away does not drive out who is there; one that drives out does.
    world.nodes[0] = node("a", &json!({"spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}}));
    assert_eq!(world.step(), Vec::<String>::new());
    assert_eq!(world.set.status.number_misscheduled, 1);
    world.nodes[0] = node("a", &json!({"spec": {"taints": [{"key": "gpu", "effect": "NoExecute"}]}}));
    assert_eq!(world.step(), ["-a-1"]);
    // A node that is no more.
    world.nodes.remove(1);
    assert_eq!(world.step(), ["-b-2"]);
}

#[test]
fn updates_leave_few_nodes_without() {
    let mut world = World::new(&rolling(), &["a", "b", "c"]);
    world.settle();
    world.set = DaemonSet { status: world.set.status.clone(), ..set("i:2", &rolling()) };
    assert_eq!(world.step(), ["-a-1"]);
    assert_eq!(world.step(), ["+a-4"]);
    assert_eq!(world.step(), Vec::<String>::new());
    world.ready();
    assert_eq!(world.step(), ["-b-2"]);
    world.settle();
    assert_eq!(world.set.status.updated_number_scheduled, 3);
    assert_eq!(world.revisions.len(), 2);
}

#[test]
fn new_ones_may_come_before_the_old_go() {
    let surge = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    let mut world = World::new(&surge, &["a", "b"]);
    world.settle();
    world.set = DaemonSet { status: world.set.status.clone(), ..set("i:2", &surge) };
    assert_eq!(world.step(), ["+a-3"]);
    assert_eq!(world.step(), Vec::<String>::new());
    world.ready();
    assert_eq!(world.step(), ["+b-4", "-a-1"]);
    world.ready();
    assert_eq!(world.step(), ["-b-2"]);
}

#[test]
fn on_delete_and_failures() {
    let mut world = World::new(&json!({"type": "OnDelete"}), &["a"]);
    world.settle();
    world.set = DaemonSet { status: world.set.status.clone(), ..set("i:2", &json!({"type": "OnDelete"})) };
    assert_eq!(world.settle(), Vec::<String>::new());
    world.pods.get_mut("a-1").unwrap()["status"]["phase"] = "Failed".into();
    assert_eq!(world.step(), ["-a-1"]);
    assert_eq!(world.step(), ["+a-2"]);
    assert_eq!(world.pods["a-2"]["spec"]["containers"][0]["image"], "i:2");
}
