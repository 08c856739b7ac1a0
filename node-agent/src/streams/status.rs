//! How a command ended, as the error channel says it: a `metav1.Status`.

use serde_json::{Value, json};

use super::StreamError;

/// The status of a command that ended with `result`.
pub(super) fn of(result: &Result<i32, StreamError>) -> Value {
    match result {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => json!({
            "metadata": {},
            "status": "Failure",
            "reason": "InternalError",
            "message": format!("Internal error occurred: {error}"),
            "details": {"causes": [{"message": error.to_string()}]},
            "code": 500,
        }),
    }
}
