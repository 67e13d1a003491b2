//! What an instance of a bake is told before it boots: a cloud-config, in JSON, which is YAML too.
//!
//! The image's own SSH server is left alone, whatever it allows: the bake starts one of its own on another port, with
//! keys and configuration in memory only, when the boot is over. And the instance powers off at its deadline, which
//! terminates it.

use std::time::Duration;

use olbake_engine::machine::INSTANCE_FILE;
use serde_json::json;

use super::keys::Pair;

/// Where the server's files are, in memory.
const PLACE: &str = "/run/olbake-bake";
/// The server's unit.
const UNIT: &str = "olbake-bake";

/// What one instance is told.
pub(super) struct UserData<'a> {
    /// Its host key.
    pub(super) host: &'a Pair,
    /// The public key that logs in as root.
    pub(super) user: &'a str,
    /// The server's port.
    pub(super) port: u16,
    /// When it powers off.
    pub(super) deadline: Duration,
    /// Who it is, as the content of [`INSTANCE_FILE`].
    pub(super) instance: Option<&'a str>,
}

impl UserData<'_> {
    /// The text.
    pub(super) fn text(&self) -> String {
        // Before the first service of the image, at each boot; `users` is empty so that cloud-init makes no account.
        // The keys that it makes for the image's own SSH server are removed with the bake: the quickest will do.
        let config = json!({
            "users": [],
            "ssh_genkeytypes": ["ed25519"],
            "bootcmd": [["sh", "-c", self.script()]],
        });
        format!("#cloud-config\n{config}\n")
    }

    fn script(&self) -> String {
        let Self { host, user, port, deadline, instance } = self;
        let mut script = format!("set -eu\numask 077\nmkdir -p {PLACE}\nchmod 755 {PLACE}\n");
        let mut file = |path: &str, content: &str| {
            script.push_str(&format!("cat > {path} <<'OLBAKE'\n{}\nOLBAKE\n", content.trim_end()));
        };
        file(&format!("{PLACE}/host_key"), &host.private);
        file(&format!("{PLACE}/authorized_keys"), user);
        file(
            &format!("{PLACE}/sshd_config"),
            &format!(
                "Port {port}\nHostKey {PLACE}/host_key\nAuthorizedKeysFile {PLACE}/authorized_keys\nPidFile none\n\
                 PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
                 UsePAM yes\nPrintMotd no\nMaxSessions 20"
            ),
        );
        if let Some(instance) = instance {
            script.push_str("umask 022\nmkdir -p $(dirname ");
            script.push_str(INSTANCE_FILE);
            script.push_str(")\n");
            script.push_str(&format!("cat > {INSTANCE_FILE} <<'OLBAKE'\n{instance}\nOLBAKE\n"));
        }
        let seconds = deadline.as_secs();
        // Both wait for what comes later in the boot, which waits for this script.
        script.push_str(&format!(
            "systemd-run --quiet --unit={UNIT}-deadline --on-active={seconds} systemctl poweroff &\n\
             systemd-run --quiet --no-block --unit={UNIT} --property=After=cloud-final.service \
             --property=After=multi-user.target --property=Restart=always \
             sh -c 'mkdir -p /run/sshd; exec /usr/sbin/sshd -D -e -f {PLACE}/sshd_config' &\n"
        ));
        script
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

    use super::*;

    #[test]
    fn the_script_is_one_and_the_secret_of_the_user_is_not_in_it() {
        let (host, user) = (Pair::new().unwrap(), Pair::new().unwrap());
        let data = UserData {
            host: &host,
            user: &user.public,
            port: 22022,
            deadline: Duration::from_secs(60),
            instance: Some("{\"image\": \"web\"}"),
        };
        let text = data.text();
        let config: serde_json::Value =
            serde_json::from_str(text.strip_prefix("#cloud-config\n").unwrap()).unwrap();
        let script = config["bootcmd"][0][2].as_str().unwrap();
        let checked = std::process::Command::new("sh").args(["-n", "-c", script]).status().unwrap();
        assert!(checked.success());
        assert!(script.contains(&*host.private) && script.contains(&user.public));
        assert!(!text.contains(user.private.lines().nth(2).unwrap()));
        assert!(script.contains("--on-active=60 systemctl poweroff"));
    }
}
