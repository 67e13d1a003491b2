//! A test cloud: an EC2 that is real enough. moto keeps the records; a proxy in front of it mends what those get
//! wrong and injects faults; bodies make running instances boot.

pub mod body;
