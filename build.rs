//! How the program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Nearly all of the 85,000 pointers in the program's constants are relative to where it is loaded. Packed (DT_RELR,
    // glibc 2.36 and newer), they take a few pages instead of two megabytes that each process reads when it starts.
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
