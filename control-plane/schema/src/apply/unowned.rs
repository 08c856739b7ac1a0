//! Merging without owners: what a `MutatingAdmissionPolicy`'s ApplyConfiguration does to an object (apiserver
//! `admission/plugin/policy/mutating/patch/smd.go`).

use serde_json::Value;

use super::element::Element;
use super::merge::merge;
use super::set::shown;
use super::typed::{Atom, Type};
use super::validate::validate;

/// The object with what the configuration says. Nobody owns that afterwards.
///
/// # Errors
///
/// In upstream's words: the configuration is not of the type, or says something of lists and maps that are replaced as
/// a whole.
pub fn mutate(ty: Type<'_>, object: &Value, configuration: &Value) -> Result<Value, String> {
    validate(ty, configuration).map_err(|why| format!("failed to convert patch object to typed object: {why}"))?;
    let mut atomic = Vec::new();
    find_atomic(ty, configuration, &mut Vec::new(), &mut atomic);
    if !atomic.is_empty() {
        let all = atomic.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {all}"));
    }
    merge(ty, object, configuration).map_err(|why| format!("failed to merge patch: {why}"))
}

/// The parts of a configuration that would be replaced as a whole. What is inside of lists is not looked at.
fn find_atomic(ty: Type<'_>, value: &Value, path: &mut Vec<Element>, found: &mut Vec<String>) {
    match (ty.atom(Some(value)), value) {
        (Atom::Map(map), Value::Object(entries)) => {
            if map.atomic {
                found.push(shown(path));
            }
            for (name, value) in entries.iter().filter(|(name, _)| map.declares(name)) {
                let Some(ty) = map.value_type(name) else { continue };
                path.push(Element::field(name));
                find_atomic(ty, value, path, found);
                path.pop();
            }
        }
        (Atom::List(list), Value::Array(_)) if list.is_atomic() => found.push(shown(path)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::Registry;

    fn mutated(object: &Value, configuration: &Value) -> Result<Value, String> {
        let registry = Registry::builtin();
        let row = registry.by_kind("", "v1", "Pod").expect("a kind");
        mutate(Type::Struct(row.definition().expect("a definition")), object, configuration)
    }

    #[test]
    fn lists_merge_by_their_keys() {
        let pod = json!({"metadata": {"name": "p", "finalizers": ["a"]}, "spec": {"containers": [
            {"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}]}, {"name": "b", "image": "y"}]}});
        let wanted = json!({"metadata": {"finalizers": ["b"]}, "spec": {"containers": [
            {"name": "b", "image": "z"}, {"name": "a", "env": [{"name": "F", "value": "2"}]}]}});
        let merged = mutated(&pod, &wanted).expect("a pod");
        assert_eq!(merged["metadata"]["finalizers"], json!(["a", "b"]));
        let containers = merged["spec"]["containers"].as_array().expect("containers");
        let of = |name: &str| containers.iter().find(|c| c["name"] == name).expect("a container");
        assert_eq!((containers.len(), &of("b")["image"]), (2, &json!("z")));
        assert_eq!(of("a")["env"], json!([{"name": "E", "value": "1"}, {"name": "F", "value": "2"}]));
        assert_eq!(mutated(&merged, &wanted).as_ref(), Ok(&merged), "twice is once");
    }

    #[test]
    fn wholes_and_strangers_are_refused() {
        let pod = json!({"metadata": {"name": "p"}});
        let whole = json!({"spec": {"nodeSelector": {"a": "b"}, "dnsConfig": {"searches": ["x"]}}});
        assert_eq!(
            mutated(&pod, &whole).expect_err("atomic"),
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.dnsConfig.searches, \
             .spec.nodeSelector"
        );
        assert_eq!(
            mutated(&pod, &json!({"spec": {"strange": 1}})).expect_err("unknown"),
            "failed to convert patch object to typed object: .spec.strange: field not declared in schema"
        );
    }
}
