//! Link options of the agent that travels: a static executable that is to be small.
//!
//! A panic aborts it, so the tables by which stacks are unwound are never read; folding functions of equal code
//! shrinks what generics repeat. Rust's library asks the C library where a stack ends, only to word what it says of
//! an overflow; the C library reads the answer with `sscanf`, which brings all it knows of numbers and languages,
//! 118 kB. So here the question always fails, which the library allows for: an overflow ends the agent without words.
//! And the C library formats its own messages with what can write fractions too, 36 kB, and has no message with one.
//! Only the pinned toolchain's own linker on x86-64 is known to do all this.

/// A function of no arguments, whose answer is never 0, in place of the one that answers 0 if it can.
const NO_STACK_ENDS: &str = "-Wl,--defsym=pthread_getattr_np=getpid";
/// Functions that are never called, in place of those that write fractions.
const NO_FRACTIONS: [&str; 2] = ["-Wl,--defsym=__printf_fp=abort", "-Wl,--defsym=__printf_fphex=abort"];

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=small.ld");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let is_static = variable("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static");
    // The profile `agent`, which aborts, is the one that is optimised for size.
    let is_small = variable("OPT_LEVEL") == "z";
    if is_static && is_small && variable("CARGO_CFG_TARGET_ARCH") == "x86_64" {
        // Of the target directory: checkouts that share it share what this says, too.
        let copy = format!("{}/small.ld", variable("OUT_DIR"));
        std::fs::write(&copy, include_str!("small.ld"))?;
        let script = format!("-Wl,-T,{copy}");
        let others = ["-Wl,--icf=all", "-Wl,--no-eh-frame-hdr", NO_STACK_ENDS, &script];
        for option in NO_FRACTIONS.into_iter().chain(others) {
            println!("cargo::rustc-link-arg-bins={option}");
        }
    }
    Ok(())
}
