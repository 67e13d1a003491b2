//! Says how fast the block store is on a disk, as JSON: `store_speed DISK SCRATCH [RUNS]`. `cargo xtask bench
//! store` runs it.

use olbake_engine::store::measure::measure;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [disk, scratch, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: store_speed DISK SCRATCH [RUNS]");
        std::process::exit(2);
    };
    let runs = rest.first().and_then(|runs| runs.parse().ok()).unwrap_or(3);
    match measure(disk.as_str().into(), scratch.as_str().into(), runs) {
        Ok(measured) => {
            println!("{}", serde_json::to_string(&measured).expect("numbers are expressible in JSON"))
        }
        Err(error) => {
            eprintln!("error: {error}");
            std::process::exit(1);
        }
    }
}
