//! A session: the talk with olbake over one stream, from hello to done.
//!
//! The reading side owns the order of the talk and never waits for operations, so that a cancel or the end of the
//! stream is heard at once; operations run on other threads. When the stream ends, so does the agent: commands
//! are ended first.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_core::protocol::{Frame, FromAgent, HEADER, Hello, Mode, PROTOCOL, Start, Summary, ToAgent};

use crate::blobs::Blobs;
use crate::context::Run;
use crate::dpkg::Status;
use crate::error::{At, Result};
use crate::execute::{Options, execute};
use crate::hold::Hold;
use crate::journal::Journal;
use crate::outbox::Outbox;
use crate::secrets::Secrets;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The run ended, well or not: olbake was told.
    Done,
    /// The run could not begin or go on.
    Fault,
    /// The stream ended.
    Closed,
}

/// Talks until the run has ended. `holder` is the token of an olbake whose working directory others may want too.
pub(crate) fn serve(mut input: impl Read, outbox: &Arc<Outbox>, holder: Option<&str>) -> Ending {
    outbox.send(FromAgent::Hello(Box::new(hello())));
    match prepare(&mut input, outbox, holder) {
        Ok(Some(prepared)) => carry_out(input, outbox, prepared),
        Ok(None) => Ending::Closed,
        Err(message) => {
            outbox.send(FromAgent::Fault { message });
            Ending::Fault
        }
    }
}

type Ended = std::collections::HashMap<olbake_core::OperationId, olbake_core::report::OperationReport>;

/// What a run has before it begins.
struct Prepared {
    start: Start,
    blobs: Utf8PathBuf,
    journal: Option<Journal>,
    ended: Ended,
    hold: Option<Hold>,
}

/// Takes the run and everything it needs. None: the stream ended or the run was cancelled before it began.
fn prepare(
    input: &mut impl Read,
    outbox: &Outbox,
    holder: Option<&str>,
) -> std::result::Result<Option<Prepared>, String> {
    let Some(frame) = read_frame(input)? else { return Ok(None) };
    let start = match message(&frame)? {
        ToAgent::Start(start) => *start,
        ToAgent::Ready | ToAgent::Cancel => return Err("the first message must start a run".to_owned()),
    };
    if start.protocol != PROTOCOL {
        return Err(format!("olbake speaks protocol {}, this agent {PROTOCOL}", start.protocol));
    }
    outbox.protect(Arc::new(Secrets::new(start.secrets.clone())));
    let work_dir = Utf8Path::new(&start.work_dir);
    if !work_dir.is_absolute() || work_dir.parent().is_none() {
        return Err(format!("the working directory `{work_dir}` is not an absolute path"));
    }
    type Opened = (Option<Hold>, Blobs, (Option<Journal>, Ended));
    let open = || -> Result<Opened> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(work_dir).at("make", work_dir)?;
        let hold = holder.map(|token| Hold::take(work_dir, token)).transpose()?;
        let journal = match start.mode {
            Mode::Apply => {
                Journal::open(work_dir, start.run).map(|(journal, ended)| (Some(journal), ended))?
            }
            Mode::Check => (None, Ended::new()),
        };
        Ok((hold, Blobs::open(work_dir)?, journal))
    };
    let (hold, mut blobs, (journal, ended)) = open().map_err(|error| error.failure().message)?;
    for last in [false, true] {
        if !take_blobs(input, &mut blobs)? {
            return Ok(None);
        }
        let missing = missing(&start, &blobs, &ended);
        if missing.is_empty() {
            break;
        }
        if last {
            return Err(format!(
                "{} blobs that the run needs did not come, among them {}",
                missing.len(),
                missing[0]
            ));
        }
        outbox.send(FromAgent::Need { blobs: missing });
    }
    let blobs = blobs.directory().to_owned();
    Ok(Some(Prepared { start, blobs, journal, ended, hold }))
}

/// The blobs that are needed by operations that have not ended, and are not there.
fn missing(start: &Start, blobs: &Blobs, ended: &Ended) -> Vec<Digest> {
    let open = start.operations.iter().filter(|operation| !ended.contains_key(&operation.id));
    let mut needed = BTreeSet::new();
    needed.extend(open.flat_map(|operation| operation.action.contents()).map(|content| content.digest));
    needed.into_iter().filter(|digest| !blobs.has(digest)).collect()
}

/// Takes blobs until all have come; false: the stream ended or the run was cancelled.
fn take_blobs(input: &mut impl Read, blobs: &mut Blobs) -> std::result::Result<bool, String> {
    loop {
        match read_frame(input)? {
            None => return Ok(false),
            Some(Frame::Blob(digest, piece)) => {
                blobs.take(digest, &piece).map_err(|error| error.failure().message)?;
            }
            Some(frame) => match message(&frame)? {
                ToAgent::Ready => return Ok(true),
                ToAgent::Cancel => return Ok(false),
                ToAgent::Start(_) => return Err("a run was started twice".to_owned()),
            },
        }
    }
}

fn carry_out(input: impl Read, outbox: &Arc<Outbox>, prepared: Prepared) -> Ending {
    let Prepared { start, blobs, journal, ended, hold } = prepared;
    let cancelled = hold.as_ref().map(Hold::begin).unwrap_or_default();
    let run = Run {
        mode: start.mode,
        key: start.run,
        work_dir: start.work_dir.clone().into(),
        blobs,
        secrets: Arc::new(Secrets::new(start.secrets)),
        outbox: Arc::clone(outbox),
        cancelled: Arc::clone(&cancelled),
        world: crate::world::World::default(),
        booted: systemd_runs(),
        changed: Mutex::default(),
        reboots: start.reboots,
        reboot: AtomicBool::new(false),
        units_stale: Mutex::default(),
    };
    let options = Options { workers: start.workers, shuffle: start.shuffle, keep_going: start.keep_going };
    let (operations, packages) = (start.operations, start.packages);
    let outbox = Arc::clone(outbox);
    let runner = std::thread::spawn(move || {
        let result = match run.mode {
            Mode::Apply => recover(&run),
            Mode::Check => Ok(()),
        };
        let result = result.and_then(|()| execute(&run, &operations, journal.as_ref(), ended, &options));
        let result = result.and_then(|summary| settle(&run).map(|()| summary));
        let cancelled = run.cancelled.load(Ordering::SeqCst);
        let ending = match result {
            Ok(_) if run.reboot.load(Ordering::SeqCst) => reboot(&run),
            Ok(summary) => {
                if packages && let Ok(status) = Status::read() {
                    outbox.send(FromAgent::Packages { packages: status.installed() });
                }
                clean_up(&run.work_dir, run.mode, &summary, cancelled, hold.is_some());
                outbox.send(FromAgent::Done { summary, cancelled });
                Ending::Done
            }
            Err(message) => {
                outbox.send(FromAgent::Fault { message });
                Ending::Fault
            }
        };
        // The reading side waits for words that will not come.
        std::process::exit(ending.code());
    });
    listen(input, &cancelled);
    drop(runner.join());
    Ending::Closed
}

/// systemd is to know at the end what changed, unless it ends itself.
fn settle(run: &Run) -> std::result::Result<(), String> {
    if run.cancelled.load(Ordering::SeqCst) || run.reboot.load(Ordering::SeqCst) {
        return Ok(());
    }
    run.refresh_units(crate::context::Stale::Wants).map_err(|error| error.failure().message)
}

/// Boots the machine again; the journal knows already. systemd does so once this has returned.
fn reboot(run: &Run) -> Ending {
    let going = AtomicBool::new(false);
    let asked = crate::process::Command::new(["systemctl", "--no-block", "reboot"], &going).run();
    match asked.and_then(crate::process::Ended::ok) {
        Ok(_) => {
            run.outbox.send(FromAgent::Rebooting);
            Ending::Done
        }
        Err(error) => {
            run.outbox.send(FromAgent::Fault { message: error.failure().message });
            Ending::Fault
        }
    }
}

/// Puts right what a killed agent left half done.
fn recover(run: &Run) -> std::result::Result<(), String> {
    crate::ops::apt::remove_leftovers();
    crate::ops::account_files::recover(&run.work_dir, run.key).map_err(|error| error.failure().message)
}

/// Hears a cancel, or the end of the stream, which is one too.
fn listen(mut input: impl Read, cancelled: &AtomicBool) {
    loop {
        let go_on = match read_frame(&mut input) {
            Ok(Some(frame)) => !matches!(message(&frame), Ok(ToAgent::Cancel) | Err(_)),
            Ok(None) | Err(_) => false,
        };
        if !go_on {
            cancelled.store(true, Ordering::SeqCst);
            return;
        }
    }
}

/// Removes what is not needed any more: after a run that went well, blobs, and everything where the directory
/// would stay on the disk or where the machine is there for further runs, which are to look at all of it again.
fn clean_up(work_dir: &Utf8Path, mode: Mode, summary: &Summary, cancelled: bool, further: bool) {
    let Summary { ok: _, changed: _, skipped: _, failed, not_run } = *summary;
    let whole = failed == 0 && not_run == 0 && !cancelled;
    if whole || mode == Mode::Check {
        // What is left behind here is found by the seal; the run itself went well.
        drop(fs::remove_dir_all(work_dir.join("blobs")));
    }
    if whole && further && mode == Mode::Apply {
        drop(fs::remove_file(work_dir.join(crate::journal::FILE)));
    }
    if whole && !["/run", "/dev/shm"].iter().any(|place| work_dir.starts_with(place)) {
        drop(fs::remove_dir_all(work_dir));
    }
}

impl Ending {
    /// The exit code.
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Done => 0,
            Self::Fault => 1,
            Self::Closed => 2,
        }
    }
}

fn message(frame: &Frame) -> std::result::Result<ToAgent, String> {
    let Frame::Message(json) = frame else {
        return Err("a blob came where a message was expected".to_owned());
    };
    serde_json::from_slice(json).map_err(|error| format!("a message cannot be read: {error}"))
}

/// The next frame; none when the stream ended between frames.
fn read_frame(input: &mut impl Read) -> std::result::Result<Option<Frame>, String> {
    let broken = |error: std::io::Error| format!("the stream broke: {error}");
    let mut header = [0; HEADER];
    let filled = crate::diff::fill(input, &mut header).map_err(|error| error.failure().message)?;
    if filled == 0 {
        return Ok(None);
    }
    if filled < HEADER {
        return Err("the stream ended within a frame".to_owned());
    }
    let length = Frame::payload_length(header).map_err(|error| error.to_string())?;
    let mut payload = vec![0; length];
    input.read_exact(&mut payload).map_err(broken)?;
    Frame::decode(header, payload).map(Some).map_err(|error| error.to_string())
}

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        os_release: os_release(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
        boot_id: crate::ops::reboot::boot_id(),
        systemd: systemd_runs(),
    }
}

/// Whether systemd is the first process, by the test of `sd_booted(3)`.
fn systemd_runs() -> bool {
    Utf8Path::new("/run/systemd/system").is_dir()
}

/// The assignments of `os-release(5)`.
fn os_release(text: &str) -> std::collections::BTreeMap<String, String> {
    let assignments = text.lines().filter_map(|line| line.trim().split_once('='));
    let unquoted = |value: &str| value.trim_matches(['"', '\'']).to_owned();
    assignments
        .filter(|(name, _)| !name.starts_with('#'))
        .map(|(name, value)| (name.to_owned(), unquoted(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read() {
        let found = os_release("# x=y\nID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n\n");
        assert_eq!(found.len(), 2);
        assert_eq!(found["ID"], "debian");
        assert_eq!(found["PRETTY_NAME"], "Debian GNU/Linux 12");
    }

    #[test]
    fn a_torn_frame_is_told_from_the_end() {
        assert_eq!(read_frame(&mut &b""[..]), Ok(None));
        assert!(read_frame(&mut &[1, 0, 0][..]).is_err());
        assert!(read_frame(&mut &[9, 0, 0, 0, 1, b'{'][..]).is_err());
    }
}
