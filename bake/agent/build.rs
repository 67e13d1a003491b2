//! Link options of the agent that travels: a static executable that is to be small.
//!
//! A panic aborts it, so the tables by which stacks are unwound are never read; folding functions of equal code
//! shrinks what generics repeat. Only the pinned toolchain's own linker on x86-64 is known to do both.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=small.ld");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let is_static = variable("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static");
    // The profile `agent`, which aborts, is the one that is optimised for size.
    let is_small = variable("OPT_LEVEL") == "z";
    if is_static && is_small && variable("CARGO_CFG_TARGET_ARCH") == "x86_64" {
        let script = format!("-Wl,-T,{}/small.ld", variable("CARGO_MANIFEST_DIR"));
        for option in ["-Wl,--icf=all", "-Wl,--no-eh-frame-hdr", &script] {
            println!("cargo::rustc-link-arg-bins={option}");
        }
    }
}
