//! Starts one body of a test, says so, and waits to be killed. Arguments: the cloud's folder, the disk, the address.

use std::error::Error;
use std::io::Write;

use olbake_testkit::ec2::body::{Bodies, Body, HostBodies};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("an argument is missing");
    let bodies = HostBodies::open(next()?.as_str().into())?;
    let body = Body {
        instance: "i-0123456789abcde01".to_owned(),
        disk: next()?.into(),
        address: next()?.parse()?,
        prefix: 24,
        user_data: Vec::new(),
        metadata: [].into(),
    };
    bodies.start(&body).await?;
    println!("started");
    std::io::stdout().flush()?;
    std::future::pending::<()>().await;
    Ok(())
}
