//! What the program says of itself: on standard error, by `XEBEC_LOG` (`info`, or `xebec_scheduler=debug,warn`).

use tracing_subscriber::EnvFilter;

/// Sets up logging. `default` is the level without `XEBEC_LOG`.
pub fn init(default: &str) {
    let filter = std::env::var("XEBEC_LOG").ok().and_then(|f| EnvFilter::try_new(f).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(default));
    // Who sees a terminal may still not want colours (https://no-color.org).
    let colours = std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    // A second initialisation, in a test, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours && std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}
