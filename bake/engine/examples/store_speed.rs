//! Prints how fast the block store is on a disk: `store_speed DISK SCRATCH [RUNS]`.

use olbake_engine::store::measure::measure;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [disk, scratch, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: store_speed DISK SCRATCH [RUNS]");
        std::process::exit(2);
    };
    let runs = rest.first().and_then(|runs| runs.parse().ok()).unwrap_or(3);
    match measure(disk.as_str().into(), scratch.as_str().into(), runs) {
        Ok(measured) => println!(
            "{measured:#?}\nstore.write.ratio {:.2}\nstore.read.ratio {:.2}",
            measured.write_ratio(),
            measured.read_ratio()
        ),
        Err(error) => {
            eprintln!("error: {error}");
            std::process::exit(1);
        }
    }
}
