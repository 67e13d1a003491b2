//! Link options of the agent that travels: a static executable that is to be small.
//!
//! A panic aborts it, so the tables by which stacks are unwound are never read; folding functions of equal code
//! shrinks what generics repeat. Rust's library asks the C library where a stack ends, only to word what it says of
//! an overflow; the C library reads the answer with `sscanf`, which brings all it knows of numbers and languages,
//! 118 kB. So here the question always fails, which the library allows for: an overflow ends the agent without words.
//! Only the pinned toolchain's own linker on x86-64 is known to do all this.

/// A function of no arguments, whose answer is never 0, in place of the one that answers 0 if it can.
const NO_STACK_ENDS: &str = "-Wl,--defsym=pthread_getattr_np=getpid";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=small.ld");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let is_static = variable("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static");
    // The profile `agent`, which aborts, is the one that is optimised for size.
    let is_small = variable("OPT_LEVEL") == "z";
    if is_static && is_small && variable("CARGO_CFG_TARGET_ARCH") == "x86_64" {
        let script = format!("-Wl,-T,{}/small.ld", variable("CARGO_MANIFEST_DIR"));
        for option in ["-Wl,--icf=all", "-Wl,--no-eh-frame-hdr", NO_STACK_ENDS, &script] {
            println!("cargo::rustc-link-arg-bins={option}");
        }
    }
}
