//! All methods of authentication, one after the other; and then, whom the user wants to act as.

use std::sync::Arc;

use async_trait::async_trait;
use xebec_schema::status::Status;

use super::impersonation::impersonate;
use super::{Authenticator, UserInfo};
use crate::authz::Authorizer;

/// Asks each method; the first that knows the user decides. If none does, a method's error is the answer, and without
/// one the user is anonymous.
pub struct Chain {
    methods: Vec<Arc<dyn Authenticator>>,
    anonymous: bool,
    anonymous_paths: Vec<String>,
    authorizer: Arc<dyn Authorizer>,
}

impl Chain {
    /// `anonymous`: whether requests without credentials are let in as `system:anonymous`. `authorizer` is asked who may
    /// act as whom.
    pub fn new(methods: Vec<Arc<dyn Authenticator>>, anonymous: bool, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { methods, anonymous, anonymous_paths: Vec::new(), authorizer }
    }

    /// Requests without credentials are let in for these paths only, if there are any.
    #[must_use]
    pub fn only_for(mut self, paths: Vec<String>) -> Self {
        self.anonymous_paths = paths;
        self
    }

    fn lets_in(&self, path: &str) -> bool {
        self.anonymous && (self.anonymous_paths.is_empty() || self.anonymous_paths.iter().any(|known| known == path))
    }

    /// The user that a request is to be served as.
    ///
    /// # Errors
    ///
    /// 401 for bad credentials, and for none if anonymous requests are not let in; 403 if the user may not act as whom
    /// the request names.
    pub async fn user(&self, request: &http::request::Parts) -> Result<UserInfo, Status> {
        let user = self.caller(request).await?;
        impersonate(&user, &request.headers, &*self.authorizer).await
    }

    /// Who makes the request, whomever they want to act as.
    ///
    /// # Errors
    ///
    /// 401 for bad credentials, and for none if anonymous requests are not let in.
    pub async fn caller(&self, request: &http::request::Parts) -> Result<UserInfo, Status> {
        let mut refused = None;
        for method in &self.methods {
            match method.authenticate(request).await {
                Ok(Some(user)) => return Ok(authenticated(user)),
                Ok(None) => {}
                Err(status) => refused = refused.or(Some(status)),
            }
        }
        match refused {
            Some(status) => Err(status),
            None if self.lets_in(request.uri.path()) && !request.headers.contains_key(http::header::AUTHORIZATION) => {
                Ok(UserInfo::anonymous())
            }
            None => Err(Status::unauthorized()),
        }
    }
}

#[async_trait]
impl Authenticator for Chain {
    async fn authenticate(&self, request: &http::request::Parts) -> Result<Option<UserInfo>, Status> {
        self.user(request).await.map(Some)
    }
}

/// Everybody who is somebody is in `system:authenticated`.
pub(crate) fn authenticated(mut user: UserInfo) -> UserInfo {
    if user.name != "system:anonymous" && !user.in_group("system:authenticated") {
        user.groups.push("system:authenticated".into());
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Result<Option<&'static str>, ()>);

    #[async_trait]
    impl Authenticator for Fixed {
        async fn authenticate(&self, _: &http::request::Parts) -> Result<Option<UserInfo>, Status> {
            let user = |name: &str| UserInfo { name: name.into(), ..UserInfo::default() };
            self.0.map(|name| name.map(user)).map_err(|()| Status::unauthorized())
        }
    }

    async fn user(methods: Vec<Fixed>, header: bool) -> Result<String, u16> {
        let methods: Vec<Arc<dyn Authenticator>> = methods.into_iter().map(|m| Arc::new(m) as _).collect();
        let mut request = http::Request::new(()).into_parts().0;
        if header {
            request.headers.insert("authorization", "Basic eDp5".parse().unwrap());
        }
        let nobody = Arc::new(crate::authz::Union::new(Vec::new()));
        Chain::new(methods, true, nobody).user(&request).await.map(|u| u.name).map_err(|s| s.code)
    }

    #[tokio::test]
    async fn the_first_that_knows_decides() {
        assert_eq!(
            user(vec![Fixed(Ok(None)), Fixed(Ok(Some("a"))), Fixed(Ok(Some("b")))], false).await,
            Ok("a".into())
        );
        assert_eq!(user(vec![Fixed(Err(())), Fixed(Ok(Some("b")))], false).await, Ok("b".into()));
        assert_eq!(user(vec![Fixed(Err(())), Fixed(Ok(None))], false).await, Err(401));
        assert_eq!(user(vec![Fixed(Ok(None))], false).await, Ok("system:anonymous".into()));
        assert_eq!(user(vec![Fixed(Ok(None))], true).await, Err(401), "credentials that nobody knows are bad ones");
    }
}
