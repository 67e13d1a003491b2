//! Commands of the host: which are needed, how they are run, and how none of them outlives olbake.
//!
//! Every command is started by one thread that lives as long as the process, with a parent death signal
//! (`setpriv --pdeathsig`): the kernel ends it when olbake ends, however olbake ends. The signal is tied to the
//! thread that forks, which is why it must not be a thread that comes and goes. Main type: [`HostCommand`].

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use camino::Utf8Path;
use olbake_engine::machine::MachineError;
use rustix::process::{Pid, Signal, kill_process};

/// How much of a failed command's standard error is kept.
const OUTPUT_TAIL: usize = 4096;

/// An error about a file of the host.
pub(crate) fn io_error(action: &str, path: &Utf8Path) -> impl FnOnce(io::Error) -> MachineError {
    let (action, path) = (action.to_owned(), path.to_owned());
    move |source| MachineError::Io { action, path, source }
}

/// An error about the host, without a hint.
pub(crate) fn host_error(message: impl Into<String>) -> MachineError {
    MachineError::Host { message: message.into(), help: None }
}

/// Runs blocking work where it blocks nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MachineError> + Send + 'static,
) -> Result<T, MachineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(host_error("olbake is stopping")),
        },
    }
}

/// The full path of a command, looked up as a shell of root would.
pub(crate) fn find_tool(name: &str) -> Option<std::path::PathBuf> {
    std::env::split_paths(&search_path()).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Where commands are looked for, here and by the commands themselves: `PATH`, and what root has in it.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/usr/bin:/sbin:/bin");
    path
}

/// A command to run on the host.
#[derive(Debug)]
pub(crate) struct HostCommand {
    program: &'static str,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: Option<OsString>,
    input: Option<Vec<u8>>,
}

impl HostCommand {
    /// A command by name.
    pub(crate) fn new(program: &'static str) -> Self {
        Self { program, arguments: Vec::new(), environment: Vec::new(), folder: None, input: None }
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Sets the folder it runs in.
    pub(crate) fn folder(mut self, folder: &Utf8Path) -> Self {
        self.folder = Some(folder.as_os_str().to_owned());
        self
    }

    /// Gives it something to read.
    pub(crate) fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Runs it to its end and returns what it wrote.
    pub(crate) fn run(self) -> Result<Vec<u8>, MachineError> {
        let shown = self.shown();
        let (status, output, errors) = self.collect()?;
        if status.success() { Ok(output) } else { Err(failed(shown, status, &errors)) }
    }

    /// Runs it to its end; a failure is no error but told.
    pub(crate) fn try_run(self) -> Result<(ExitStatus, Vec<u8>), MachineError> {
        let (status, output, _) = self.collect()?;
        Ok((status, output))
    }

    /// Runs it to its end, handing on each line of its standard error, and of its standard output.
    pub(crate) fn run_lines(self, hear: &mut dyn FnMut(&str)) -> Result<(), MachineError> {
        let shown = self.shown();
        let mut child = self.spawn(Stdio::null(), Stdio::null(), Stdio::piped())?;
        let errors = child.stderr.take().expect("standard error was asked for");
        let mut tail = Vec::new();
        let mut reader = BufReader::new(errors);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(count) if count > 0) {
            push_tail(&mut tail, &line);
            hear(String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
        let status = child.wait().map_err(|error| no_wait(&shown, &error))?;
        if status.success() { Ok(()) } else { Err(failed(shown, status, &tail)) }
    }

    /// Starts it. Without `input`, which only the methods that wait can give.
    pub(crate) fn spawn(self, input: Stdio, output: Stdio, errors: Stdio) -> Result<Child, MachineError> {
        let Self { program, arguments, environment, folder, input: _ } = self;
        let path = find_tool(program).ok_or_else(|| crate::preflight::missing(program))?;
        let setpriv = find_tool("setpriv").ok_or_else(|| crate::preflight::missing("setpriv"))?;
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "KILL", "--"]).arg(path).args(arguments);
        command.env("PATH", search_path()).env("LC_ALL", "C.UTF-8").envs(environment);
        if let Some(folder) = folder {
            command.current_dir(folder);
        }
        command.stdin(input).stdout(output).stderr(errors);
        spawn_from_lasting_thread(command)
            .map_err(|error| host_error(format!("cannot start `{program}`: {error}")))
    }

    fn collect(mut self) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), MachineError> {
        let shown = self.shown();
        let given = self.input.take();
        let stdin = if given.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child = self.spawn(stdin, Stdio::piped(), Stdio::piped())?;
        let input = child.stdin.take();
        let mut errors = child.stderr.take().expect("standard error was asked for");
        let mut output = child.stdout.take().expect("standard output was asked for");
        let (mut written, mut tail) = (Vec::new(), Vec::new());
        thread::scope(|scope| {
            scope.spawn(|| {
                if let (Some(mut pipe), Some(bytes)) = (input, given) {
                    // A command that does not read all it is given says so by its exit status.
                    pipe.write_all(&bytes).ok();
                }
            });
            scope.spawn(|| {
                let mut piece = [0; 4096];
                while let Ok(count @ 1..) = errors.read(&mut piece) {
                    push_tail(&mut tail, &piece[..count]);
                }
            });
            output.read_to_end(&mut written)
        })
        .map_err(|error| no_wait(&shown, &error))?;
        let status = child.wait().map_err(|error| no_wait(&shown, &error))?;
        Ok((status, written, tail))
    }

    /// The command as typed.
    fn shown(&self) -> String {
        let words = self.arguments.iter().map(|word| {
            let word = word.to_string_lossy();
            let plain =
                !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || "'\"$\\;&|<>*".contains(c));
            if plain { word.into_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
        });
        std::iter::once(self.program.to_owned()).chain(words).collect::<Vec<_>>().join(" ")
    }
}

fn push_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    tail.extend_from_slice(bytes);
    let surplus = tail.len().saturating_sub(OUTPUT_TAIL);
    tail.drain(..surplus);
}

fn failed(command: String, status: ExitStatus, errors: &[u8]) -> MachineError {
    MachineError::Command {
        command,
        status: status.to_string(),
        output: String::from_utf8_lossy(errors).trim_end().to_owned(),
    }
}

fn no_wait(command: &str, error: &io::Error) -> MachineError {
    host_error(format!("cannot wait for `{command}`: {error}"))
}

type Request = (Command, mpsc::SyncSender<io::Result<Child>>);

fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<Request>();
        thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    // Nobody listens any more: then the child is nobody's, and ends with its pipes.
                    answer.send(command.spawn()).ok();
                }
            })
            .expect("a thread can be started");
        requests
    });
    let (answer, outcome) = mpsc::sync_channel(1);
    spawner.send((command, answer)).map_err(|_| io::Error::other("the spawner is gone"))?;
    outcome.recv().map_err(|_| io::Error::other("the spawner is gone"))?
}

/// Waits for a child for a time; `None`: it still runs.
pub(crate) fn wait_for(child: &mut Child, time: Duration) -> io::Result<Option<ExitStatus>> {
    let end = Instant::now() + time;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Ends a child by ending what it waits for. A child that is killed itself is gone before what it started is, which
/// then still holds its locks and mounts; only after a time it is.
pub(crate) fn kill_from_below(child: &mut Child, time: Duration) {
    let id = child.id();
    let below = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    for process in below.split_whitespace().filter_map(|id| id.parse().ok().and_then(Pid::from_raw)) {
        // Fails only for one that has ended.
        kill_process(process, Signal::KILL).ok();
    }
    if !matches!(wait_for(child, time), Ok(Some(_))) {
        // Both fail only for a child that has ended and been waited for.
        child.kill().ok();
        child.wait().ok();
    }
}

/// A child that is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Owned(pub(crate) Child);

impl Owned {
    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        // Both fail only for a child that has ended and been waited for.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_command_status_and_output() {
        let error = HostCommand::new("sh").args(["-c", "echo no such luck >&2; exit 3"]).run().unwrap_err();
        let MachineError::Command { command, status, output } = error else { panic!("{error}") };
        assert_eq!(command, "sh -c 'echo no such luck >&2; exit 3'");
        assert_eq!(status, "exit status: 3");
        assert_eq!(output, "no such luck");
    }

    #[test]
    fn input_and_output_are_complete() {
        let bytes = vec![b'x'; 1 << 20];
        assert_eq!(HostCommand::new("cat").input(bytes.clone()).run().unwrap(), bytes);
    }

    #[test]
    fn lines_come_as_they_are_written() {
        let mut lines = Vec::new();
        let command = HostCommand::new("sh").args(["-c", "echo one >&2; echo two >&2"]);
        command.run_lines(&mut |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn children_have_the_death_signal() {
        // `setpriv --dump` prints what the command itself was given.
        let output = HostCommand::new("setpriv").arg("--dump").run().unwrap();
        assert!(String::from_utf8_lossy(&output).to_lowercase().contains("parent death signal: kill"));
    }
}
