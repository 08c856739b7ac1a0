//! What the expressions of a ValidatingAdmissionPolicy get wrong about the kinds that the policy is for (apiserver
//! `admission/plugin/policy/validating/typechecking.go`). Nothing depends on it: it is said in the policy's status.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::cel::admission::{Sees, environment};
use crate::cel::{Environment, Field, Object, Type, compile};
use crate::field::Path;
use crate::registry::Registry;
use crate::resource::Resource;
use crate::types::{Definition, Node, Scalar, Shape};

/// Of how many kinds a rule's expressions are checked.
const MAX_KINDS: usize = 10;

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where it is: `spec.validations[0].expression`.
    pub field: String,
    /// What is wrong, kind by kind, in cel-go's words.
    pub warning: String,
}

/// What is wrong with a policy's expressions.
pub fn warnings(policy: &Value, registry: &Registry) -> Vec<Warning> {
    let spec = &policy["spec"];
    let params = params(spec, registry);
    let kinds: Vec<(String, Environment)> = kinds(spec, registry)
        .into_iter()
        .filter_map(|row| Some((gvk(row), typed(spec, of_definition(row.definition()?, &mut Vec::new()), &params))))
        .collect();
    let mut warnings = Vec::new();
    for (index, validation) in spec["validations"].as_array().into_iter().flatten().enumerate() {
        let path = Path::new("spec").child("validations").index(index);
        for key in ["expression", "messageExpression"] {
            let expression = validation[key].as_str().unwrap_or_default();
            if expression.is_empty() {
                continue;
            }
            let wrong = |(kind, environment): &(String, Environment)| {
                compile(expression, environment).err().map(|error| format!("{kind}: {}\n", error.issues))
            };
            let wrong: Vec<String> = kinds.iter().filter_map(wrong).collect();
            if !wrong.is_empty() {
                warnings.push(Warning { field: path.child(key).to_string(), warning: wrong.join("\n") });
            }
        }
    }
    warnings
}

/// `apps/v1, Kind=Deployment`.
fn gvk(row: &Resource) -> String {
    format!("{}/{}, Kind={}", row.group, row.version, row.kind)
}

/// What the policy is for, as far as its rules name it.
fn kinds<'r>(spec: &Value, registry: &'r Registry) -> Vec<&'r Arc<Resource>> {
    let mut found = BTreeMap::new();
    for rule in spec["matchConstraints"]["resourceRules"].as_array().into_iter().flatten() {
        let named = |key: &str| -> Vec<&str> {
            let mut names: Vec<&str> = rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            names.sort_unstable();
            names
        };
        let (groups, versions) = (named("apiGroups"), named("apiVersions"));
        if groups.iter().chain(&versions).any(|name| name.contains('*')) {
            continue;
        }
        let resources: Vec<&str> = named("resources").into_iter().filter(|name| !name.contains(['*', '/'])).collect();
        let all = groups.iter().flat_map(|group| versions.iter().map(move |version| (*group, *version)));
        let all = all.flat_map(|(group, version)| resources.iter().map(move |plural| (group, version, *plural)));
        for row in all.filter_map(|(group, version, plural)| registry.get(group, version, plural)).take(MAX_KINDS) {
            found.insert((&row.group, &row.version, &row.kind), row);
        }
    }
    found.into_values().collect()
}

/// The type of `params`, if it is known.
fn params(spec: &Value, registry: &Registry) -> Option<Type> {
    let (version, kind) = (spec["paramKind"]["apiVersion"].as_str()?, spec["paramKind"]["kind"].as_str()?);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let row = registry.by_kind(group, version, kind)?;
    Some(of_definition(row.definition()?, &mut Vec::new()))
}

/// What the policy's expressions see of an object of a type.
fn typed(spec: &Value, object: Type, params: &Option<Type>) -> Environment {
    let sees = Sees { params: spec["paramKind"].is_object(), authorizer: true, patches: false };
    let mut environment = environment(sees).variable("object", object.clone()).variable("oldObject", object);
    if let Some(params) = params {
        environment = environment.variable("params", params.clone());
    }
    let mut variables = Object { name: "kubernetes.variables".into(), ..Object::default() };
    for variable in spec["variables"].as_array().into_iter().flatten() {
        let text = |key: &str| variable[key].as_str().unwrap_or_default();
        environment = environment.variable("variables", Type::Object(Arc::new(variables.clone())));
        // What is wrong with a variable is told where it is used in vain, and its type is not known.
        let ty = compile(text("expression"), &environment).map_or(Type::Dyn, |program| program.result_type().clone());
        variables.fields.insert(text("name").to_owned(), Field { json: text("name").to_owned(), ty });
    }
    environment.variable("variables", Type::Object(Arc::new(variables)))
}

/// The type of a struct; `within` are those that it is part of. A struct within itself is not looked into.
fn of_definition<'d>(definition: &'d Definition, within: &mut Vec<&'d str>) -> Type {
    let name: &'d str = &definition.name;
    let nameless_map = definition.fields.is_empty();
    if nameless_map || !name.is_empty() && within.contains(&name) {
        return Type::Dyn;
    }
    within.push(name);
    let fields = definition.fields.iter().map(|field| (field.name.to_string(), of_node(&field.node, within)));
    let ty = Type::object(if name.is_empty() { "object" } else { name }, fields.collect::<Vec<_>>());
    within.pop();
    ty
}

fn of_node<'d>(node: &'d Node, within: &mut Vec<&'d str>) -> Type {
    match &node.shape {
        Shape::Scalar(scalar) => of_scalar(*scalar),
        Shape::Reference(reference) => of_definition(reference.definition(), within),
        Shape::Object(definition) => of_definition(definition, within),
        Shape::List(item) => Type::list(of_node(item, within)),
        Shape::Map(value) => Type::map(of_node(value, within)),
    }
}

fn of_scalar(scalar: Scalar) -> Type {
    match scalar {
        Scalar::String => Type::String,
        Scalar::Int32 | Scalar::Int64 => Type::Int,
        Scalar::Double => Type::Double,
        Scalar::Bool => Type::Bool,
        Scalar::Bytes => Type::Bytes,
        Scalar::Time | Scalar::MicroTime => Type::Timestamp,
        Scalar::Quantity | Scalar::IntOrString | Scalar::Raw | Scalar::Any => Type::Dyn,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(rules: Value, more: Value) -> Vec<Warning> {
        let mut policy = json!({"spec": {"matchConstraints": {"resourceRules": rules}}});
        for (key, value) in more.as_object().into_iter().flatten() {
            policy["spec"][key] = value.clone();
        }
        warnings(&policy, &Registry::builtin())
    }

    fn rule(group: &str, resources: &[&str]) -> Value {
        json!([{"apiGroups": [group], "apiVersions": ["v1"], "operations": ["*"], "resources": resources}])
    }

    #[test]
    fn fields_that_the_kind_has_not_are_told() {
        let validations = json!({"validations": [
            {"expression": "object.spec.replicas > 1 && object.metadata.labels['a'] == oldObject.metadata.name"},
            {"expression": "object.replicas > 1", "messageExpression": "'has ' + object.spec.replicas"}]});
        assert_eq!(
            check(rule("apps", &["deployments", "deployments/scale"]), validations.clone()),
            [
                Warning {
                    field: "spec.validations[1].expression".into(),
                    warning: "apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'replicas'\n | \
                              object.replicas > 1\n | ......^\n"
                        .into(),
                },
                Warning {
                    field: "spec.validations[1].messageExpression".into(),
                    warning:
                        "apps/v1, Kind=Deployment: ERROR: <input>:1:8: found no matching overload for '_+_' applied \
                              to '(string, int)'\n | 'has ' + object.spec.replicas\n | .......^\n"
                            .into(),
                },
            ]
        );
        let two = check(rule("apps", &["statefulsets", "deployments"]), validations.clone());
        let order = (two[0].warning.find("Kind=Deployment"), two[0].warning.find("Kind=StatefulSet"));
        assert!(order.0.is_some() && order.0 < order.1, "{two:?}");
        assert_eq!(check(rule("apps", &["*"]), validations.clone()), [], "what is not named is not checked");
        assert_eq!(check(rule("*", &["deployments"]), validations), []);
    }

    #[test]
    fn variables_and_parameters_have_types() {
        let more = json!({
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "variables": [{"name": "n", "expression": "object.spec.containers.size()"},
                {"name": "odd", "expression": "object.odd"}],
            "validations": [{"expression": "variables.n < 3 && params.data['x'] == 'y' && variables.odd == 1"},
                {"expression": "variables.n == 'x'"}, {"expression": "params.spec == 1"}]});
        let fields: Vec<String> = check(rule("", &["pods"]), more).into_iter().map(|w| w.field).collect();
        assert_eq!(fields, ["spec.validations[1].expression", "spec.validations[2].expression"]);
    }

    #[test]
    fn every_kind_has_a_type() {
        for row in Registry::builtin().iter().filter_map(|row| row.definition()) {
            assert!(matches!(of_definition(row, &mut Vec::new()), Type::Object(_)), "{}", row.name);
        }
    }
}
