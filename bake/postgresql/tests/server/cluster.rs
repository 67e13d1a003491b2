//! A server of the test's own: a cluster in a temporary folder, on a free port of the loopback, ended with it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use olbake_engine::stack::provider::Object;
use olbake_postgresql::PostgreSql;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

pub(crate) const ADMIN_PASSWORD: &str = "administrators-own-7d1f";
const STACK: &str = "substructure.database.QA";

/// The folder of the newest server's programs.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(Result::ok);
    let found = versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("initdb").exists());
    found.max()
}

/// Who the server runs as: it refuses to be root.
fn account() -> Option<(u32, u32)> {
    let is_root = rustix::process::geteuid().is_root();
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let field = |line: &str, n: usize| line.split(':').nth(n)?.parse().ok();
    let line = accounts.lines().find(|line| line.starts_with("nobody:")).filter(|_| is_root)?;
    Some((field(line, 2)?, field(line, 3)?))
}

pub(crate) struct Cluster {
    folder: TempDir,
    programs: PathBuf,
    pub(crate) port: u16,
    running: Option<Child>,
}

impl Cluster {
    /// A cluster that runs; none: there is no PostgreSQL here.
    pub(crate) fn start() -> Option<Self> {
        let mut cluster = Self::stopped()?;
        cluster.run();
        Some(cluster)
    }

    /// A cluster that does not run yet.
    pub(crate) fn stopped() -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(
                std::env::var_os("OLBAKE_TEST_REQUIRE").is_none(),
                "this must run here, but there is no `/usr/lib/postgresql/*/bin/initdb`"
            );
            eprintln!("skipped: there is no `/usr/lib/postgresql/*/bin/initdb`");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("olbake-pg-").tempdir_in("/var/tmp").unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let cluster = Self { folder, programs, port, running: None };
        cluster.prepare();
        Some(cluster)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program that runs as the server does.
    fn program(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder.path()).env("LC_ALL", "C.UTF-8");
        if let Some((user, group)) = account() {
            command.uid(user).gid(group);
        }
        command
    }

    fn prepare(&self) {
        if let Some((user, group)) = account() {
            chown(self.folder.path(), Some(user), Some(group)).unwrap();
        }
        let secret = self.path("password");
        fs::write(&secret, ADMIN_PASSWORD).unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o644)).unwrap();
        let mut initdb = self.program(&self.programs.join("initdb"));
        initdb.args(["-D", "data", "-U", "admin", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
        done(initdb.args(["--auth=scram-sha-256", "--pwfile=password"]));
        let mut certificate = self.program(Path::new("openssl"));
        certificate.args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=machine",
            "-days",
            "2",
        ]);
        done(certificate.args(["-keyout", "data/server.key", "-out", "data/server.crt"]));
        let access =
            "hostssl all all 127.0.0.1/32 scram-sha-256\nhostnossl all all 127.0.0.1/32 scram-sha-256\n";
        fs::write(self.path("data/pg_hba.conf"), access).unwrap();
    }

    pub(crate) fn run(&mut self) {
        let mut server = self.program(&self.programs.join("postgres"));
        let settings = [
            format!("port={}", self.port),
            format!("unix_socket_directories={}", self.folder.path().display()),
            "listen_addresses=127.0.0.1".to_owned(),
            "ssl=on".to_owned(),
            "fsync=off".to_owned(),
            // Every statement that was ever sent is in the log, to be searched for passwords.
            "log_statement=all".to_owned(),
            "log_min_error_statement=debug1".to_owned(),
        ];
        server.args(["-D", "data"]).args(settings.iter().flat_map(|setting| ["-c", setting]));
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let server = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.running = Some(server);
    }

    pub(crate) fn stop(&mut self) {
        let Some(mut server) = self.running.take() else { return };
        // An immediate shutdown: the server ends its own processes.
        kill_process(Pid::from_child(&server), Signal::QUIT).unwrap();
        server.wait().unwrap();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// How resources name this server.
    pub(crate) fn server(&self) -> Value {
        self.server_at(self.port)
    }

    pub(crate) fn server_at(&self, port: u16) -> Value {
        let (host, user) = ("127.0.0.1", "admin");
        let (database, tls) = ("postgres", "require");
        json!({
            "host": host, "port": port, "user": user, "password": ADMIN_PASSWORD, "database": database, "tls": tls,
        })
    }

    /// What a statement gives an account, or what the server says against it.
    pub(crate) fn query(
        &self,
        user: &str,
        password: &str,
        database: &str,
        sql: &str,
    ) -> Result<String, String> {
        let place = format!("host=127.0.0.1 port={} user={user} dbname={database}", self.port);
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-XtA", "-v", "ON_ERROR_STOP=1", "-c", sql, "-d", &place]).env("PGPASSWORD", password);
        let Output { status, stdout, stderr } = psql.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if status.success() { Ok(text(&stdout)) } else { Err(text(&stderr)) }
    }

    pub(crate) fn admin(&self, database: &str, sql: &str) -> String {
        self.query("admin", ADMIN_PASSWORD, database, sql).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

fn done(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn provider() -> PostgreSql {
    PostgreSql::with_patience(Duration::from_secs(60))
}

/// An object of a type, with an id that has its name in it.
pub(crate) fn object(kind: &str, name: &str) -> Object {
    Object {
        stack: STACK.parse().unwrap(),
        name: name.parse().unwrap(),
        ty: format!("postgresql.{kind}").parse().unwrap(),
        id: format!("{name}-0a1b2c3d").parse().unwrap(),
    }
}

/// Properties with a server.
pub(crate) fn inputs(server: &Value, properties: &Value) -> Map<String, Value> {
    let mut inputs = properties.as_object().unwrap().clone();
    inputs.insert("server".to_owned(), server.clone());
    inputs
}

/// An error with its causes.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
