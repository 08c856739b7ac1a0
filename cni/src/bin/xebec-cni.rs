//! The plugin as a program of its own, for other runtimes: `xebec` called by this name does the same.

fn main() -> std::process::ExitCode {
    xebec_cni::main()
}
