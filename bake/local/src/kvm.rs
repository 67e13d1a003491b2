//! Whether KVM can run a guest here. That `/dev/kvm` opens says nothing: in some sandboxes it opens, and a guest
//! stops at the first instruction that the sandbox cannot emulate. So the probe's guest is on the machine and the
//! processor that a VM gets, and does what firmware does early: it sets up the floating point unit.

use std::fs;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use camino::Utf8Path;
use olbake_core::plan::Architecture;
use olbake_engine::machine::MachineError;

use crate::host::{HostCommand, Owned, io_error, wait_for};
use crate::preflight::emulator;

/// How long the guest may take; it has a handful of instructions.
const TIME: Duration = Duration::from_secs(3);

/// Whether a guest ran under KVM; asked once per process.
pub(crate) fn runs(architecture: Architecture, work_dir: &Utf8Path) -> Result<bool, MachineError> {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    if let Some(answer) = ANSWER.get() {
        return Ok(*answer);
    }
    let answer = Utf8Path::new("/dev/kvm").exists() && guest_ends(architecture, "kvm", work_dir)?;
    Ok(*ANSWER.get_or_init(|| answer))
}

/// Runs the guest; whether it did what it has to.
fn guest_ends(
    architecture: Architecture,
    accelerator: &str,
    work_dir: &Utf8Path,
) -> Result<bool, MachineError> {
    let image = work_dir.join("probe.bin");
    let (program, _) = emulator(architecture);
    let processor = if accelerator == "kvm" { "host" } else { "max" };
    let command = HostCommand::new(program).folder(work_dir).args([
        "-accel",
        accelerator,
        "-cpu",
        processor,
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
        "-m",
        "64",
    ]);
    let (content, command, expected) = match architecture {
        Architecture::Amd64 => {
            let exit =
                ["-machine", "q35", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-bios", "probe.bin"];
            (guest_of_amd64(), command.args(exit), 33)
        }
        Architecture::Arm64 => {
            let flat = ["-machine", "virt", "-kernel", "probe.bin"];
            (guest_of_arm64(), command.args(flat), 0)
        }
    };
    fs::write(&image, content).map_err(io_error("cannot write", &image))?;
    let mut child = Owned(command.spawn(Stdio::null(), Stdio::null(), Stdio::null())?);
    let status = wait_for(&mut child.0, TIME).map_err(io_error("cannot wait for the guest of", &image))?;
    child.kill();
    fs::remove_file(&image).map_err(io_error("cannot remove", &image))?;
    Ok(status.is_some_and(|status| status.code() == Some(expected)))
}

/// A firmware whose first instructions write 16 to QEMU's exit port, which makes QEMU's status 33.
fn guest_of_amd64() -> Vec<u8> {
    // finit; mov al, 16; out 0xf4, al; hlt; jmp to the hlt
    const CODE: [u8; 10] = [0x9b, 0xdb, 0xe3, 0xb0, 0x10, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd];
    let mut firmware = vec![0; 64 * 1024];
    let start = firmware.len() - 16;
    firmware[start..start + CODE.len()].copy_from_slice(&CODE);
    firmware
}

/// A program that asks the firmware interface (PSCI) to switch off.
fn guest_of_arm64() -> Vec<u8> {
    // movz w0, #8; movk w0, #0x8400, lsl #16; hvc #0; b .
    const CODE: [u32; 4] = [0x5280_0100, 0x72b0_8000, 0xd400_0002, 0x1400_0000];
    CODE.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Emulation always runs a guest: so where KVM does not, it is not the guest's fault.
    #[test]
    fn the_guest_ends_under_emulation() {
        let architecture = Architecture::Amd64;
        if crate::host::find_tool(emulator(architecture).0).is_none() {
            eprintln!("SKIPPED, not tested: QEMU is not installed");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        assert!(guest_ends(architecture, "tcg", Utf8Path::from_path(folder.path()).unwrap()).unwrap());
    }
}
