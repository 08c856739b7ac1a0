use super::*;
use crate::Condition;
use crate::memory::MemoryStore;

fn configuration(resources: &str, providers: &str) -> EncryptionConfiguration {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [{resources}]\n  providers: [{providers}]\n"
    );
    EncryptionConfiguration::parse(&text).unwrap()
}

fn sources() -> (Clock, Random) {
    (Clock::system(), Random::seeded(1))
}

const OLD: &str = "{name: old, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}";
const NEW: &str = "{name: new, secret: ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=}";

fn over(inner: &Arc<MemoryStore>, providers: &str) -> EncryptedStore {
    let configuration = configuration("secrets, configmaps", providers);
    EncryptedStore::new(inner.clone(), &configuration, sources()).unwrap()
}

async fn put(store: &dyn Store, key: &str, value: &str) {
    let operations = vec![Operation::Put(key.to_owned(), value.to_owned().into())];
    store.txn(Txn { conditions: Vec::new(), operations }).await.unwrap();
}

async fn value(store: &dyn Store, key: &str) -> Result<String, StoreError> {
    let value = store.get(key).await?.unwrap().value;
    Ok(String::from_utf8_lossy(&value).into_owned())
}

const SECRET: &str = "/registry/core/secrets/ns/a";

#[tokio::test]
async fn values_are_unreadable_in_the_store_and_plain_above_it() {
    for cipher in ["aesgcm", "aescbc", "secretbox"] {
        let inner = Arc::new(MemoryStore::new());
        let store = over(&inner, &format!("{{{cipher}: {{keys: [{OLD}]}}}}, {{identity: {{}}}}"));
        put(&store, SECRET, "swordfish").await;
        put(&store, "/registry/core/pods/ns/a", "no secret").await;
        let stored = value(&*inner, SECRET).await.unwrap();
        assert!(stored.starts_with(&format!("k8s:enc:{cipher}:v1:old:")), "{stored}");
        assert!(!stored.contains("swordfish"));
        assert_eq!(value(&*inner, "/registry/core/pods/ns/a").await.unwrap(), "no secret");
        assert_eq!(value(&store, SECRET).await.unwrap(), "swordfish");
        assert_eq!(store.list("/registry/", ListOptions::default()).await.unwrap().items.len(), 2);
        let mut watch = store.watch("/registry/", 0).await.unwrap();
        let event = watch.next().await.unwrap().unwrap().events.remove(0);
        assert_eq!(event.value.unwrap(), "swordfish");
        let conflict = Txn { conditions: vec![Condition::Absent(SECRET.into())], operations: Vec::new() };
        let outcome = store.txn(conflict).await.unwrap();
        let TxnOutcome::Conflict { current: Some(current), .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(current.value, "swordfish");
    }
}

#[tokio::test]
async fn keys_are_rotated_by_writing_again() {
    let inner = Arc::new(MemoryStore::new());
    put(&*inner, SECRET, "plain").await;
    let first = over(&inner, &format!("{{aescbc: {{keys: [{OLD}]}}}}, {{identity: {{}}}}"));
    assert_eq!(value(&first, SECRET).await.unwrap(), "plain");
    assert!(first.is_stale(SECRET), "it is not encrypted yet");
    put(&first, SECRET, "plain").await;
    assert!(!first.is_stale(SECRET));
    let second = over(&inner, &format!("{{aescbc: {{keys: [{NEW}, {OLD}]}}}}, {{identity: {{}}}}"));
    assert_eq!(value(&second, SECRET).await.unwrap(), "plain");
    assert!(second.is_stale(SECRET));
    put(&second, SECRET, "plain").await;
    let third = over(&inner, &format!("{{aescbc: {{keys: [{NEW}]}}}}"));
    assert_eq!(value(&third, SECRET).await.unwrap(), "plain");
    assert!(!third.is_stale(SECRET));
    let back = over(&inner, &format!("{{identity: {{}}}}, {{aescbc: {{keys: [{NEW}]}}}}"));
    put(&back, SECRET, &value(&back, SECRET).await.unwrap()).await;
    assert_eq!(value(&*inner, SECRET).await.unwrap(), "plain");
}

#[tokio::test]
async fn what_cannot_be_read_says_so() {
    let inner = Arc::new(MemoryStore::new());
    let store = over(&inner, &format!("{{aesgcm: {{keys: [{OLD}]}}}}"));
    put(&store, SECRET, "x").await;
    let stored = inner.get(SECRET).await.unwrap().unwrap().value;
    let error = async |store: &EncryptedStore, key: &str| value(store, key).await.unwrap_err().to_string();
    let other = over(&inner, &format!("{{aesgcm: {{keys: [{NEW}]}}}}"));
    assert!(error(&other, SECRET).await.contains("no matching key was found for the provided aesgcm transformer"));
    let none = over(&inner, "{identity: {}}");
    assert!(error(&none, SECRET).await.contains("unable to transform key \"/registry/core/secrets/ns/a\""));
    // A value that is put in another's place does not pass for it.
    let elsewhere = "/registry/core/secrets/ns/b";
    let operations = vec![Operation::Put(elsewhere.into(), stored)];
    inner.txn(Txn { conditions: Vec::new(), operations }).await.unwrap();
    assert!(error(&store, elsewhere).await.contains("damaged"));
}

#[test]
fn the_most_particular_rule_counts() {
    let text = format!(
        "{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [\
         {{resources: ['*.*'], providers: [{{identity: {{}}}}]}}, \
         {{resources: ['*.apps', '*.'], providers: [{{secretbox: {{keys: [{OLD}]}}}}]}}, \
         {{resources: [secrets, widgets.example.com], providers: [{{aesgcm: {{keys: [{OLD}]}}}}]}}]}}"
    );
    let rules = EncryptionConfiguration::parse(&text).unwrap().rules(|_| unreachable!("no plugins")).unwrap();
    let cipher = |key: &str| match &rules.of(key).unwrap().0[0] {
        provider::Provider::Identity => "identity",
        provider::Provider::Keyed { cipher, .. } => cipher.name(),
        provider::Provider::Kms(_) => "kms",
    };
    assert_eq!(cipher("/registry/core/secrets/ns/a"), "aesgcm");
    assert_eq!(cipher("/registry/core/pods/ns/a"), "secretbox");
    assert_eq!(cipher("/registry/apps/deployments/ns/a"), "secretbox");
    assert_eq!(cipher("/registry/example.com/widgets/ns/a"), "aesgcm");
    assert_eq!(cipher("/registry/batch/jobs/ns/a"), "identity");
}

const GOOD_KMS: &str = "{apiVersion: v2, name: a, endpoint: 'unix:///run/kms.sock', timeout: 5s}";

#[test]
fn mistakes_are_named() {
    let with = |part: &str| {
        format!("{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{part}]}}")
    };
    let kms = |part: &str| format!("{{resources: [secrets], providers: [{{kms: {part}}}]}}");
    EncryptionConfiguration::parse(&with(&kms(GOOD_KMS))).unwrap();
    for (text, says) in [
        ("{kind: EncryptionConfiguration}".to_owned(), "apiVersion"),
        (with(""), "resources: at least one"),
        (with("{resources: [secrets], providers: []}"), "providers: at least one"),
        (with(&kms("{}")), "KMSv1 is deprecated"),
        (with(&kms("{apiVersion: v3}")), "unsupported apiVersion v3"),
        (with(&kms("{apiVersion: v2, endpoint: 'unix:///x'}")), "kms.name: name is a mandatory field for a kms"),
        (with(&kms("{apiVersion: v2, name: 'a:b', endpoint: 'unix:///x'}")), "must not contain ':'"),
        (with(&kms("{apiVersion: v2, name: a}")), "endpoint is a mandatory field"),
        (with(&kms("{apiVersion: v2, name: a, endpoint: 'tcp://x'}")), "unsupported scheme \"tcp\""),
        (with(&kms("{apiVersion: v2, name: a, endpoint: 'unix://x'}")), "unix:///PATH"),
        (
            with(&kms("{apiVersion: v2, name: a, endpoint: 'unix:///x', timeout: 0s}")),
            "timeout should be a positive value",
        ),
        (
            with(&kms("{apiVersion: v2, name: a, endpoint: 'unix:///x', cachesize: 5}")),
            "cachesize is not supported in v2",
        ),
        (
            with(&format!("{0}, {1}", kms(GOOD_KMS), kms(GOOD_KMS).replace("secrets", "configmaps"))),
            "duplicate KMS provider name a, names must be unique",
        ),
        (with("{resources: [secrets], providers: [{aescbc: {keys: []}}]}"), "keys: at least one"),
        (with("{resources: [secrets], providers: [{aescbc: {keys: [{name: a, secret: '???'}]}}]}"), "base64"),
        (
            with(
                "{resources: [secrets], providers: [{secretbox: {keys: [{name: a, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}}]}",
            ),
            "got 16, expected one of [32]",
        ),
        (with("{resources: ['pods*'], providers: [{identity: {}}]}"), "for many kinds"),
        (with("{resources: [secrets, secrets], providers: [{identity: {}}]}"), "twice"),
    ] {
        let error = EncryptionConfiguration::parse(&text).unwrap_err().to_string();
        assert!(error.contains(says), "{error:?} does not say {says:?}");
    }
}

mod suite {
    use super::*;

    fn fresh() -> Arc<EncryptedStore> {
        let configuration = configuration("'*.*'", &format!("{{aesgcm: {{keys: [{OLD}]}}}}"));
        Arc::new(EncryptedStore::new(Arc::new(MemoryStore::new()), &configuration, sources()).unwrap())
    }

    crate::conformance_tests!(fresh);
}

#[tokio::test]
async fn another_configuration_counts_from_when_it_is_there() {
    let inner = Arc::new(MemoryStore::new());
    let store = over(&inner, &format!("{{aescbc: {{keys: [{OLD}]}}}}, {{identity: {{}}}}"));
    put(&store, SECRET, "x").await;
    let both = configuration("secrets", &format!("{{secretbox: {{keys: [{NEW}]}}}}, {{aescbc: {{keys: [{OLD}]}}}}"));
    assert!(!store.is_stale(SECRET));
    store.reload(&both).await.unwrap();
    assert_eq!(value(&store, SECRET).await.unwrap(), "x");
    assert!(store.is_stale(SECRET), "it is to be written again");
    assert!(!store.is_stale("/registry/core/configmaps/ns/a"), "nothing says any more how to write these");
    put(&store, SECRET, "x").await;
    assert!(!store.is_stale(SECRET));
    assert!(value(&*inner, SECRET).await.unwrap().starts_with("k8s:enc:secretbox:v1:new:"));
}
