//! CustomResourceDefinitions as kubectl sees them.

use std::sync::Arc;

use crate::harness::{Cluster, Result, SOON, contains, same, wait_until};

/// A definition in a group of the test's own, since definitions have no namespaces.
const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.life.example.com}
spec:
  group: life.example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wdg], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size, description: How large it is.}
    - {name: Color, type: string, jsonPath: .spec.color, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        description: Widget is a thing.
        properties:
          spec:
            type: object
            required: [size]
            x-kubernetes-validations:
            - {rule: "self.size >= oldSelf.size", message: size cannot shrink}
            properties:
              size: {type: integer, minimum: 1, maximum: 10, description: Size is how large it is.}
              replicas: {type: integer, default: 1}
              color: {type: string, enum: [red, green], default: red}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#;

fn widget(size: &str) -> String {
    format!(
        "apiVersion: life.example.com/v1\nkind: Widget\nmetadata: {{name: one}}\nspec: {{size: {size}, color: green}}\n"
    )
}

pub fn custom_resources_live(cluster: &Arc<Cluster>) -> Result {
    let ns = cluster.namespace("crds")?;
    contains(&ns.apply(DEFINITION)?, "customresourcedefinition.apiextensions.k8s.io/widgets.life.example.com created")?;
    ns.kubectl(&["wait", "--for=condition=Established", "crd/widgets.life.example.com", "--timeout=10s"])?;
    contains(&ns.kubectl(&["explain", "widgets.spec.size"])?, "Size is how large it is.")?;
    contains(&ns.kubectl(&["explain", "widgets", "--recursive"])?, "replicas")?;
    contains(&ns.apply(&widget("3"))?, "widget.life.example.com/one created")?;
    contains(&ns.apply(&widget("3"))?, "unchanged")?;
    contains(&ns.kubectl(&["get", "wdg"])?, "NAME   SIZE   AGE")?;
    contains(&ns.kubectl(&["get", "wdg", "-o", "wide"])?, "NAME   SIZE   COLOR   AGE")?;
    contains(&ns.kubectl(&["get", "all"])?, "widget.life.example.com/one")?;
    contains(&ns.apply_refused(&widget("11"))?, "spec.size in body should be less than or equal to 10")?;
    contains(&ns.apply_refused(&widget("\"x\""))?, "spec.size in body must be of type integer")?;
    contains(&ns.apply_refused(&widget("2"))?, "size cannot shrink")?;
    contains(&ns.apply_refused(&widget("3, colour: red"))?, "unknown field \"spec.colour\"")?;
    contains(&ns.kubectl(&["scale", "wdg/one", "--replicas=4"])?, "scaled")?;
    same(ns.field("wdg/one", "{.spec.replicas}")?.as_str(), "4", "the replicas")?;
    let patch = r#"{"status":{"replicas":4}}"#;
    ns.kubectl(&["patch", "wdg/one", "--subresource=status", "--type=merge", "-p", patch])?;
    same(ns.field("wdg/one", "{.status.replicas} {.metadata.generation}")?.as_str(), "4 2", "status and generation")?;
    contains(&ns.kubectl(&["delete", "crd", "widgets.life.example.com"])?, "deleted")?;
    wait_until("the kind is gone", SOON, || {
        // What kubectl knows of the kinds, it keeps for a while.
        let said = ns.try_kubectl(&["get", "wdg"])?.err;
        let gone = ["the server doesn't have a resource type", "the server could not find the requested resource"];
        Ok(gone.iter().any(|words| said.contains(words)))
    })
}
