//! The usual extensions: how Xebec's own server authenticates, authorizes and admits.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use xebec_clock::{Clock, Random};
use xebec_pki::ServiceAccountKeys;

use crate::admission::{Parts, PodSecurityConfig, default_plugins};
use crate::allocate::ServiceAllocator;
use crate::audit::{Auditor, Policy, Sink};
use crate::authn::Authenticator;
use crate::authn::bootstrap_token::BootstrapTokens;
use crate::authn::front_proxy::{FrontProxy, FrontProxyConfig};
use crate::authn::oidc::Oidc;
use crate::authn::oidc::config::AuthenticationConfig;
use crate::authn::secret_token::SecretTokens;
use crate::authn::service_account::ServiceAccountTokens;
use crate::authn::token::Tokens;
use crate::authn::webhook::{TokenWebhook, TokenWebhookConfig};
use crate::authn::x509::X509;
use crate::authz::config::{AuthorizationConfig, Method, WebhookConfig};
use crate::authz::node::NodeAuthorizer;
use crate::authz::rbac::Rbac;
use crate::authz::webhook::Webhook;
use crate::authz::{Attributes, Authorizer, Decision, Union, Verdict};
use crate::extension::{Answer, Extensions, NodeConnector};
use crate::fairness::{self, Fairness};
use crate::reader::Reader;
use crate::reviews::Reviews;
use crate::token_request;
use crate::webhook::WebhookClient;

/// What the extensions are made of.
#[derive(Clone)]
pub struct Standard {
    /// The time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
    /// Signs and checks the tokens of service accounts.
    pub keys: Arc<ServiceAccountKeys>,
    /// Addresses of services: one range of a family, or one of each, the preferred one first.
    pub service_cidrs: Vec<IpNet>,
    /// The first and the last node port.
    pub node_ports: (u16, u16),
    /// Whether requests without credentials are let in as `system:anonymous`, who may see little.
    pub anonymous: bool,
    /// Where the keys that check service-account tokens are served: `https://<address>:6443/openid/v1/jwks`.
    pub jwks_uri: String,
    /// How the nodes' agents are reached.
    pub nodes: Option<Arc<dyn NodeConnector>>,
    /// What clusters may have otherwise.
    pub options: Options,
}

/// What a cluster may have otherwise than others; the default is upstream's.
#[derive(Clone, Default)]
pub struct Options {
    /// What applies to pods in namespaces that do not say, and to whom it does not apply.
    pub pod_security: PodSecurityConfig,
    /// The proxies that may say who their users are.
    pub front_proxy: Option<FrontProxyConfig>,
    /// What is noted of requests, and where.
    pub audit: Option<(Policy, Arc<dyn Sink>)>,
    /// Issuers of tokens, and who is let in without.
    pub authentication: AuthenticationConfig,
    /// Who is asked about tokens that nobody else knows.
    pub token_webhook: Option<TokenWebhookConfig>,
    /// Who decides what users may do; without it, the node authorizer and RBAC.
    pub authorization: Option<AuthorizationConfig>,
}

impl Standard {
    /// Client certificates, service-account tokens, bootstrap tokens; the node authorizer and RBAC; the
    /// default admission plugins with the allocation of services' addresses; the reviews and `serviceaccounts/token`.
    pub fn extensions(&self, reader: Arc<dyn Reader>) -> Extensions {
        let audiences = vec![self.keys.issuer().to_owned()];
        let rbac = Arc::new(Rbac::new(reader.clone()));
        let authorizers = self.authorizers(&reader, &rbac);
        let authorizer: Arc<dyn Authorizer> = Arc::new(Union::new(authorizers.clone()));

        let accounts = ServiceAccountTokens::new(self.keys.clone(), reader.clone(), &self.clock, audiences.clone());
        let kept = SecretTokens::new(self.keys.clone(), reader.clone(), audiences.clone());
        let joining = BootstrapTokens::new(reader.clone(), &self.clock);
        let client = WebhookClient::new(reader.clone());
        let authentication = &self.options.authentication;
        let issuers = Oidc::new(authentication, &client, &self.clock);
        let webhook = self.options.token_webhook.clone();
        let webhook = webhook.map(|config| Arc::new(TokenWebhook::new(config, reader.clone(), audiences.clone())));
        let tokens = Tokens::new(vec![Arc::new(accounts), Arc::new(kept), Arc::new(joining), Arc::new(issuers)])
            .and_webhook(webhook);
        let mut methods: Vec<Arc<dyn Authenticator>> = Vec::new();
        let proxies = self.options.front_proxy.clone();
        let proxy_ca = proxies.as_ref().map(|proxies| proxies.client_ca_pem.clone());
        if let Some(proxies) = proxies {
            methods.push(Arc::new(FrontProxy::new(proxies, &self.clock)));
        }
        methods.push(Arc::new(X509::new(&self.clock).not_of(proxy_ca)));
        methods.push(Arc::new(tokens.clone()));

        let allocator = ServiceAllocator::new(
            reader.clone(),
            (self.clock.clone(), self.random.clone()),
            &self.service_cidrs,
            self.node_ports,
        );
        let parts = Parts {
            reader: reader.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
            authorizer: authorizer.clone(),
            rbac: rbac.clone(),
            allocator: Arc::new(allocator),
            pod_security: self.options.pod_security.clone(),
        };
        let reviews = Arc::new(Reviews::new(tokens, audiences.clone(), authorizer, rbac, &self.clock));
        let everything = reader.clone();
        let token_request: Arc<dyn Answer> =
            Arc::new(token_request::Tokens::new(self.keys.clone(), reader, &self.clock, &self.random, audiences));
        let key = (String::new(), "serviceaccounts".to_owned(), "token".to_owned());
        Extensions {
            authenticators: methods,
            anonymous: authentication.anonymous.unwrap_or(self.anonymous),
            anonymous_paths: authentication.anonymous_paths.clone(),
            authorizers,
            plugins: default_plugins(&parts),
            virtual_kinds: reviews.table(),
            subresources: BTreeMap::from([(key, token_request)]),
            documents: BTreeMap::from([
                ("/openid/v1/jwks".to_owned(), ("application/jwk-set+json", self.keys.jwks())),
                (
                    "/.well-known/openid-configuration".to_owned(),
                    ("application/json", self.keys.openid_configuration(&self.jwks_uri)),
                ),
            ]),
            nodes: self.nodes.clone(),
            fairness: Some(Arc::new(Fairness::new(everything, fairness::SEATS))),
            audit: self.options.audit.clone().map(|(policy, sink)| Arc::new(Auditor::new(policy, sink, &self.clock))),
            ..Extensions::default()
        }
    }

    fn authorizers(&self, reader: &Arc<dyn Reader>, rbac: &Arc<Rbac>) -> Vec<Arc<dyn Authorizer>> {
        let made = |method: &Method| -> Arc<dyn Authorizer> {
            match method {
                Method::Node => Arc::new(NodeAuthorizer::new(reader.clone())),
                Method::Rbac => rbac.clone(),
                Method::AlwaysAllow => Arc::new(Always(true)),
                Method::AlwaysDeny => Arc::new(Always(false)),
                Method::Webhook(config) => Arc::new(Webhook::new(WebhookConfig::clone(config), reader.clone())),
            }
        };
        match &self.options.authorization {
            Some(config) => config.authorizers.iter().map(made).collect(),
            None => [Method::Node, Method::Rbac].iter().map(made).collect(),
        }
    }
}

/// The same for everybody.
struct Always(bool);

impl Authorizer for Always {
    fn decide<'a>(&'a self, _: &Attributes) -> Verdict<'a> {
        Verdict::Now(match self.0 {
            true => Decision::Allow(String::new()),
            false => Decision::NoOpinion("Everything is forbidden.".into()),
        })
    }
}
