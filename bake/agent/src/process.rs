//! Commands: started in their own process group, with a clean environment, a deadline, and nothing of the
//! agent's own streams; ended when the run is cancelled.
//!
//! Main types: [`Command`], which says what to run, and [`Ended`], which says how it went.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::accounts::Identity;
use crate::error::{OpError, Result};

/// Where programs are looked for.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Lines of output that a failure shows.
const TAIL_LINES: usize = 40;
/// Bytes of a line that travel.
const LONGEST_LINE: u64 = 8 * 1024;
/// Bytes of output that are kept for a check.
pub(crate) const LONGEST_CAPTURE: u64 = 64 * 1024 * 1024;
/// How often a waiting operation looks whether the run was cancelled.
const TICK: Duration = Duration::from_millis(100);
/// How long a process may take to end when asked.
const GRACE: Duration = Duration::from_secs(3);
/// How long output may come after the process ended: a service that it started may hold the pipe.
const DRAIN: Duration = Duration::from_secs(1);

/// Hears the lines that a command writes.
pub(crate) type Sink = Arc<dyn Fn(String) + Send + Sync>;

/// What a command reads.
#[derive(Default)]
pub(crate) enum Input {
    /// Nothing.
    #[default]
    Nothing,
    /// These bytes.
    Bytes(Vec<u8>),
    /// A file.
    File(Utf8PathBuf),
}

/// A command to run.
pub(crate) struct Command<'a> {
    argv: Vec<String>,
    shown: Option<String>,
    environment: HashMap<String, String>,
    directory: Utf8PathBuf,
    identity: Option<Identity>,
    input: Input,
    timeout: Duration,
    sink: Option<Sink>,
    capture: bool,
    cancelled: &'a AtomicBool,
}

/// How a command ended.
pub(crate) struct Ended {
    shown: String,
    status: ExitStatus,
    timed_out: Option<Duration>,
    /// The end of both outputs.
    tail: String,
    /// The standard output, where it was asked for.
    stdout: Vec<u8>,
}

/// A command as a person would type it.
pub(crate) fn typed(argv: &[String]) -> String {
    let quoted = argv.iter().map(|word| {
        let plain =
            !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "-_./:=@%+,~^".contains(c));
        if plain { word.clone() } else { format!("'{}'", word.replace('\'', "'\\''")) }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

impl<'a> Command<'a> {
    /// A command as root, in `/`, that ends when `cancelled` is set.
    pub(crate) fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>, cancelled: &'a AtomicBool) -> Self {
        let environment = [
            ("PATH", SEARCH_PATH),
            ("HOME", "/root"),
            ("LANG", "C.UTF-8"),
            ("DEBIAN_FRONTEND", "noninteractive"),
        ];
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            shown: None,
            environment: environment
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into_iter()
                .collect(),
            directory: "/".into(),
            identity: None,
            input: Input::Nothing,
            timeout: Duration::from_secs(3600),
            sink: None,
            capture: false,
            cancelled,
        }
    }

    /// What reports show in place of the arguments.
    pub(crate) fn shown_as(mut self, text: String) -> Self {
        self.shown = Some(text);
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the working directory.
    pub(crate) fn directory(mut self, path: &Utf8Path) -> Self {
        path.clone_into(&mut self.directory);
        self
    }

    /// Runs it as a user.
    pub(crate) fn identity(mut self, identity: Option<Identity>) -> Self {
        if let Some(identity) = &identity {
            self.environment.insert("HOME".to_owned(), identity.home.clone());
            self.environment.insert("USER".to_owned(), identity.name.clone());
            self.environment.insert("LOGNAME".to_owned(), identity.name.clone());
        }
        self.identity = identity;
        self
    }

    /// Gives it something to read.
    pub(crate) fn input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// Sets the deadline.
    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Tells each line as it is written.
    pub(crate) fn sink(mut self, sink: Sink) -> Self {
        self.sink = Some(sink);
        self
    }

    /// Keeps its standard output apart. Otherwise both outputs are one stream, in the order they were written.
    pub(crate) fn capture(mut self) -> Self {
        self.capture = true;
        self
    }

    /// Runs it and waits for its end. An exit code is no error here; a program that cannot be started is.
    pub(crate) fn run(self) -> Result<Ended> {
        let Self {
            mut argv,
            shown,
            environment,
            directory,
            identity,
            input,
            timeout,
            sink,
            capture,
            cancelled,
        } = self;
        let shown = shown.unwrap_or_else(|| typed(&argv));
        if cancelled.load(Ordering::SeqCst) {
            return Err(OpError::Cancelled);
        }
        let program = argv.first().cloned().ok_or_else(|| OpError::wrong("a command without a program"))?;
        if let Some(identity) = &identity {
            argv.splice(0..0, identity.switch());
        }
        let mut command = std::process::Command::new(&argv[0]);
        command.args(&argv[1..]).env_clear().envs(&environment).current_dir(&directory).process_group(0);
        command.stdin(match &input {
            Input::Nothing => Stdio::null(),
            Input::Bytes(_) => Stdio::piped(),
            Input::File(path) => Stdio::from(open(path)?),
        });
        let pipe = || std::io::pipe().map_err(|error| OpError::wrong(format!("cannot make a pipe: {error}")));
        let (output, writer) = pipe()?;
        let errors = if capture {
            let (errors, writer) = pipe()?;
            command.stderr(writer);
            Some(errors)
        } else {
            let writer = writer.try_clone();
            command.stderr(writer.map_err(|error| OpError::wrong(format!("cannot copy a pipe: {error}")))?);
            None
        };
        command.stdout(writer);
        let mut child = command.spawn().map_err(|error| cannot_start(&program, &directory, &error))?;
        // The pipes end when nobody holds their other ends any more.
        drop(command);
        feed(&mut child, input);
        let collector = Collector::start(output, errors, sink);
        let (status, timed_out) = wait(&mut child, timeout, cancelled)?;
        let (tail, stdout) = collector.finish();
        if cancelled.load(Ordering::SeqCst) {
            return Err(OpError::Cancelled);
        }
        Ok(Ended { shown, status, timed_out: timed_out.then_some(timeout), tail, stdout })
    }
}

impl Ended {
    /// The exit code; none when a signal or the deadline ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        if self.timed_out.is_some() { None } else { self.status.code() }
    }

    /// Whether it exited with 0.
    pub(crate) fn success(&self) -> bool {
        self.code() == Some(0)
    }

    /// The standard output, where it was asked for, as text.
    pub(crate) fn stdout(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }

    /// The standard output, where it was asked for.
    pub(crate) fn into_stdout(self) -> Vec<u8> {
        self.stdout
    }

    /// The end of both outputs, for a person.
    pub(crate) fn tail(&self) -> &str {
        &self.tail
    }

    /// How it ended, in words.
    pub(crate) fn status(&self) -> String {
        match (self.timed_out, self.status.code(), self.status.signal()) {
            (Some(after), _, _) => format!("stopped after {} s", after.as_secs()),
            (None, Some(code), _) => format!("exit status {code}"),
            (None, None, Some(signal)) => format!("signal {signal}"),
            (None, None, None) => "no status".to_owned(),
        }
    }

    /// The failure to report when it did not go well.
    pub(crate) fn error(self, message: impl Into<String>) -> OpError {
        let status = self.status();
        OpError::Command { message: message.into(), command: self.shown, status, output: self.tail }
    }

    /// Fails unless it exited with 0.
    pub(crate) fn ok(self) -> Result<Self> {
        if self.success() { Ok(self) } else { Err(self.error("the command failed")) }
    }
}

fn open(path: &Utf8Path) -> Result<File> {
    crate::error::At::at(File::open(path), "open", path)
}

fn cannot_start(program: &str, directory: &Utf8Path, error: &std::io::Error) -> OpError {
    if error.kind() != std::io::ErrorKind::NotFound {
        return OpError::wrong(format!("cannot start `{program}`: {error}"));
    }
    if directory.is_dir() {
        OpError::Missing(format!("there is no program `{program}` on the machine"))
    } else {
        OpError::Missing(format!("there is no directory `{directory}` to run `{program}` in"))
    }
}

fn feed(child: &mut Child, input: Input) {
    if let (Input::Bytes(bytes), Some(mut stdin)) = (input, child.stdin.take()) {
        // A command need not read its input: a broken pipe is its choice.
        std::thread::spawn(move || drop(stdin.write_all(&bytes)));
    }
}

/// Waits for the end of a process; ends its group at the deadline or when the run is cancelled.
fn wait(child: &mut Child, timeout: Duration, cancelled: &AtomicBool) -> Result<(ExitStatus, bool)> {
    let wrong = |error: std::io::Error| OpError::wrong(format!("cannot wait for a command: {error}"));
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let handle = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let deadline = Instant::now().checked_add(timeout);
    let mut kill_at: Option<Instant> = None;
    let mut timed_out = false;
    loop {
        if let Some(status) = child.try_wait().map_err(wrong)? {
            return Ok((status, timed_out));
        }
        let now = Instant::now();
        match kill_at {
            None => {
                timed_out = deadline.is_some_and(|deadline| now >= deadline);
                if timed_out || cancelled.load(Ordering::SeqCst) {
                    signal_group(pid, Signal::TERM);
                    kill_at = Some(now + GRACE);
                }
            }
            Some(at) if now >= at => signal_group(pid, Signal::KILL),
            Some(_) => {}
        }
        pause(handle.as_ref(), deadline.filter(|_| kill_at.is_none()).map(|deadline| deadline - now));
    }
}

fn signal_group(pid: Option<Pid>, signal: Signal) {
    if let Some(pid) = pid {
        // The group may be gone already.
        let _gone = kill_process_group(pid, signal);
    }
}

/// Sleeps until the process ends, or a moment.
fn pause(handle: Option<&OwnedFd>, most: Option<Duration>) {
    let moment = most.map_or(TICK, |most| most.min(TICK));
    match handle {
        Some(handle) => {
            let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: i64::from(moment.subsec_nanos()) };
            let _woken = poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout));
        }
        None => std::thread::sleep(moment.min(Duration::from_millis(10))),
    }
}

/// Reads both outputs while the command runs.
struct Collector {
    shared: Arc<Collected>,
    streams: usize,
    ended: mpsc::Receiver<()>,
}

#[derive(Default)]
struct Collected {
    tail: Mutex<VecDeque<String>>,
    stdout: Mutex<Vec<u8>>,
    closed: AtomicBool,
}

impl Collector {
    fn start(output: PipeReader, errors: Option<PipeReader>, sink: Option<Sink>) -> Self {
        let shared = Arc::new(Collected::default());
        let (sender, ended) = mpsc::channel();
        let (capture, streams) = (errors.is_some(), 1 + usize::from(errors.is_some()));
        for (stream, capture) in errors.into_iter().map(|errors| (errors, false)).chain([(output, capture)]) {
            let (shared, sink, sender) = (Arc::clone(&shared), sink.clone(), sender.clone());
            std::thread::spawn(move || shared.read(stream, capture, sink.as_ref(), &sender));
        }
        Self { shared, streams, ended }
    }

    /// What was written, once both outputs are closed or the patience is over.
    fn finish(self) -> (String, Vec<u8>) {
        let until = Instant::now() + DRAIN;
        for _ in 0..self.streams {
            if self.ended.recv_timeout(until.saturating_duration_since(Instant::now())).is_err() {
                break;
            }
        }
        self.shared.closed.store(true, Ordering::SeqCst);
        let tail = lock(&self.shared.tail).iter().cloned().collect::<Vec<_>>().join("\n");
        (tail, std::mem::take(&mut *lock(&self.shared.stdout)))
    }
}

impl Collected {
    fn read(&self, stream: impl Read, capture: bool, sink: Option<&Sink>, ended: &mpsc::Sender<()>) {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            if self.closed.load(Ordering::SeqCst) {
                continue;
            }
            if capture {
                let mut stdout = lock(&self.stdout);
                if (stdout.len() as u64) < LONGEST_CAPTURE {
                    stdout.extend_from_slice(&line);
                }
            }
            let text = String::from_utf8_lossy(&line);
            // Progress bars write over their line: only what stays is told.
            let text = text.trim_end().rsplit('\r').next().unwrap_or_default().to_owned();
            self.keep(&text);
            if let Some(sink) = sink {
                sink(text);
            }
        }
        // The other side has gone when nobody waits any more.
        let _heard = ended.send(());
    }

    fn keep(&self, line: &str) {
        let mut tail = lock(&self.tail);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line.to_owned());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    static GO: AtomicBool = AtomicBool::new(false);

    #[test]
    fn output_status_and_input_come_through() {
        let ended = Command::new(["sh", "-c", "cat; echo err >&2; exit 3"], &GO)
            .input(Input::Bytes(b"hello\n".to_vec()))
            .capture()
            .run()
            .unwrap();
        assert_eq!(ended.code(), Some(3));
        assert_eq!(ended.stdout(), "hello\n");
        assert!(ended.tail().contains("err") && ended.tail().contains("hello"));
        assert_eq!(ended.status(), "exit status 3");
    }

    #[test]
    fn a_deadline_ends_the_whole_group() {
        let ended = Command::new(["sh", "-c", "sleep 600 & sleep 600"], &GO)
            .timeout(Duration::from_millis(50))
            .run()
            .unwrap();
        assert_eq!(ended.code(), None);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Command::new(["no-such-program-here"], &GO).run().err().unwrap();
        assert!(error.to_string().contains("no-such-program-here"));
    }

    #[test]
    fn commands_are_shown_as_typed() {
        let argv = ["a", "b c", "it's", ""].map(str::to_owned);
        assert_eq!(typed(&argv), r"a 'b c' 'it'\''s' ''");
    }
}
