//! Trust anchors for pods: ClusterTrustBundles by name, or all of a signer's with certain labels
//! (clustertrustbundle_manager.go upstream).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use xebec_clock::Random;
use xebec_schema::selector::LabelSelector;

use super::VolumeError;
use crate::api::pod::TrustProjection;
use crate::api::watch::{Change, follow};
use crate::api::{ClusterTrustBundle, Rest};

/// Bundles by name; none: not known yet.
pub(super) type Known = Option<BTreeMap<String, Arc<ClusterTrustBundle>>>;

/// The cluster's bundles, or one of them, kept watched.
pub(super) struct Bundles {
    pub(super) state: watch::Receiver<Known>,
    task: AbortHandle,
}

impl Drop for Bundles {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bundles {
    /// Those that a projection may want.
    pub(super) fn of(projection: &TrustProjection, rest: Rest, random: Random) -> Self {
        let field = |name: &str, value: &str| format!("fieldSelector={name}%3D{}", value.replace('/', "%2F"));
        let query = match (&projection.name, &projection.signer_name) {
            (Some(name), _) => field("metadata.name", name),
            (None, Some(signer)) => field("spec.signerName", signer),
            (None, None) => String::new(),
        };
        let (state_tx, state) = watch::channel(Known::None);
        let (tx, mut changes) = mpsc::channel(4);
        let path = "/apis/certificates.k8s.io/v1/clustertrustbundles".to_owned();
        let following = follow::<ClusterTrustBundle>(rest, path, query, random, tx);
        let task = tokio::spawn(async move {
            let apply = async {
                while let Some(change) = changes.recv().await {
                    state_tx.send_modify(|known| take_in(known, change));
                }
            };
            tokio::join!(following, apply);
        });
        Self { state, task: task.abort_handle() }
    }

    /// The anchors of a projection, once the bundles are known.
    pub(super) async fn anchors(&self, projection: &TrustProjection) -> Result<Vec<u8>, VolumeError> {
        let mut state = self.state.clone();
        match state.wait_for(Option::is_some).await {
            Ok(known) => anchors(projection, known.iter().flat_map(BTreeMap::values).map(|bundle| &**bundle)),
            Err(_) => Err(VolumeError("ClusterTrustBundles are not watched any more".to_owned())),
        }
    }
}

fn take_in(known: &mut Known, change: Change<ClusterTrustBundle>) {
    let name = |bundle: &ClusterTrustBundle| bundle.metadata.name.clone();
    match change {
        Change::All(all) => *known = Some(all.into_iter().map(|bundle| (name(&bundle), bundle)).collect()),
        Change::Put(bundle) => drop(known.get_or_insert_default().insert(name(&bundle), bundle)),
        Change::Gone(bundle) => drop(known.get_or_insert_default().remove(&name(&bundle))),
    }
}

/// The anchors that a projection wants, each once: PEM.
fn anchors<'a>(
    projection: &TrustProjection,
    bundles: impl Iterator<Item = &'a ClusterTrustBundle>,
) -> Result<Vec<u8>, VolumeError> {
    let chosen: Vec<&ClusterTrustBundle> = match (&projection.name, &projection.signer_name) {
        (Some(name), _) => bundles.filter(|bundle| bundle.metadata.name == *name).collect(),
        (None, signer) => {
            // None selects nothing, an empty one everything.
            let selector = LabelSelector::from_json(&projection.label_selector);
            let selector = selector.map_err(|e| VolumeError(format!("while parsing label selector: {e}")))?;
            let wanted = |bundle: &&ClusterTrustBundle| {
                signer.as_ref() == Some(&bundle.spec.signer_name) && selector.matches(&bundle.metadata.labels)
            };
            bundles.filter(wanted).collect()
        }
    };
    if chosen.is_empty() && !projection.optional {
        return Err(VolumeError(match &projection.name {
            Some(name) => {
                format!("while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"{name}\" not found")
            }
            None => "combination of signerName and labelSelector matched zero ClusterTrustBundles".to_owned(),
        }));
    }
    let all: BTreeSet<Vec<u8>> = chosen.iter().flat_map(|bundle| blocks(&bundle.spec.trust_bundle)).collect();
    Ok(pem(all).into_bytes())
}

/// Certificates as PEM.
pub(super) fn pem(certificates: impl IntoIterator<Item = Vec<u8>>) -> String {
    certificates.into_iter().map(|der| pem_block("CERTIFICATE", &der)).collect()
}

/// One block of PEM.
pub(super) fn pem_block(label: &str, der: &[u8]) -> String {
    let mut block = format!("-----BEGIN {label}-----\n");
    for line in BASE64_STANDARD.encode(der).as_bytes().chunks(64) {
        block.push_str(&String::from_utf8_lossy(line));
        block.push('\n');
    }
    block + &format!("-----END {label}-----\n")
}

/// What PEM blocks of certificates hold, whatever is between them.
pub(super) fn blocks(text: &str) -> Vec<Vec<u8>> {
    let pieces = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    let bodies = pieces.filter_map(|piece| piece.split_once("-----END CERTIFICATE-----")).map(|(body, _)| body);
    bodies.filter_map(|body| BASE64_STANDARD.decode(body.split_whitespace().collect::<String>()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn bundle(name: &str, signer: &str, stage: &str, bytes: &[&[u8]]) -> ClusterTrustBundle {
        let text: String = bytes
            .iter()
            .map(|b| {
                format!(
                    "who: {name}\n-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
                    BASE64_STANDARD.encode(b)
                )
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "stage": stage } }, "spec": { "signerName": signer, "trustBundle": text },
        }))
        .unwrap()
    }

    fn chosen(projection: Value) -> Result<Vec<Vec<u8>>, String> {
        let projection: TrustProjection = serde_json::from_value(projection).unwrap();
        let all = [
            bundle("plain", "", "live", &[b"one"]),
            bundle("example.com:s:a", "example.com/s", "live", &[b"two", b"three"]),
            bundle("example.com:s:b", "example.com/s", "canary", &[b"three", b"four"]),
        ];
        let chosen = anchors(&projection, all.iter()).map_err(|e| e.0)?;
        let text = String::from_utf8(chosen).unwrap();
        assert!(!text.contains("who"), "nothing but the anchors");
        Ok(blocks(&text))
    }

    #[test]
    fn bundles_are_chosen_by_name_or_by_signer_and_labels() {
        let of = |names: &[&str]| Ok(names.iter().map(|n| n.as_bytes().to_vec()).collect::<Vec<_>>());
        assert_eq!(chosen(json!({ "name": "plain", "path": "f" })), of(&["one"]));
        let signer = |selector: Value| chosen(json!({ "signerName": "example.com/s", "labelSelector": selector }));
        assert_eq!(signer(json!({})), of(&["four", "three", "two"]), "each once");
        assert_eq!(signer(json!({ "matchLabels": { "stage": "canary" } })), of(&["four", "three"]));
        let none = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
        assert_eq!(signer(Value::Null), Err(none.to_owned()), "no selector selects nothing");
        let absent = "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"x\" not found";
        assert_eq!(chosen(json!({ "name": "x" })), Err(absent.to_owned()));
        assert_eq!(chosen(json!({ "name": "x", "optional": true })), of(&[]));
    }
}
