//! `kubeconfig` files with everything embedded (`client.config.k8s.io`, `v1`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Certified;

/// How the user of a kubeconfig proves who they are.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// By a client certificate.
    Certificate(Certified),
    /// By a bearer token.
    Token(String),
}

/// What a kubeconfig file says.
#[derive(Clone, Debug)]
pub struct Kubeconfig<'a> {
    /// The name of the cluster, the context, and the end of the user's name.
    pub cluster: &'a str,
    /// `https://172.30.0.2:6443`.
    pub server: &'a str,
    /// The cluster CA's certificate.
    pub ca_pem: &'a str,
    /// `admin`.
    pub user: &'a str,
    /// The user's credentials.
    pub credentials: &'a Credentials,
}

impl Kubeconfig<'_> {
    /// The file as YAML. Strings are written in JSON's form, which YAML 1.2 includes.
    pub fn render(&self) -> String {
        let quote = |text: &str| serde_json::Value::from(text).to_string();
        let cluster = quote(self.cluster);
        let user = quote(&format!("{}@{}", self.user, self.cluster));
        let credentials = match self.credentials {
            Credentials::Certificate(pair) => format!(
                "    client-certificate-data: {}\n    client-key-data: {}\n",
                STANDARD.encode(&pair.certificate_pem),
                STANDARD.encode(&pair.key_pem)
            ),
            Credentials::Token(token) => format!("    token: {}\n", quote(token)),
        };
        format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: {cluster}\n  \
               cluster:\n    \
                 server: {server}\n    \
                 certificate-authority-data: {ca}\n\
             users:\n\
             - name: {user}\n  \
               user:\n\
             {credentials}\
             contexts:\n\
             - name: {cluster}\n  \
               context:\n    \
                 cluster: {cluster}\n    \
                 user: {user}\n\
             current-context: {cluster}\n",
            server = quote(self.server),
            ca = STANDARD.encode(self.ca_pem),
        )
    }
}
