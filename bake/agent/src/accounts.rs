//! Users and groups, read from `/etc/passwd`, `/etc/group` and `/etc/shadow` themselves: a static executable has no
//! name service, and a machine that is not booted has none to ask.

use camino::{Utf8Path, Utf8PathBuf};

use crate::error::{OpError, Result};

/// Predicted accounts without a number get one from here, so that files can be predicted to belong to them.
const PREDICTED: u32 = 4_000_000_000;

/// A line of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) comment: String,
    pub(crate) home: String,
    pub(crate) shell: String,
    /// The second field of `/etc/shadow`.
    pub(crate) password: Option<String>,
}

/// A line of `/etc/group`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) gid: u32,
    pub(crate) members: Vec<String>,
}

/// The user database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accounts {
    pub(crate) users: Vec<User>,
    pub(crate) groups: Vec<Group>,
}

/// Whom a command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) home: String,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Identity {
    /// The words before a command that make it run as this user, with the user's groups and no others.
    pub(crate) fn switch(&self) -> Vec<String> {
        let groups = match self.groups.as_slice() {
            [] => "--clear-groups".to_owned(),
            groups => format!("--groups={}", groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
        };
        vec![
            "setpriv".to_owned(),
            format!("--reuid={}", self.uid),
            format!("--regid={}", self.gid),
            groups,
            "--".to_owned(),
        ]
    }
}

impl Accounts {
    /// The accounts of the machine.
    pub(crate) fn read() -> Self {
        let text = |path: &str| std::fs::read(path).map_or_else(|_| String::new(), |bytes| lossy(&bytes));
        Self::parse(&text("/etc/passwd"), &text("/etc/group"), &text("/etc/shadow"))
    }

    /// The accounts in these texts. Lines that are not accounts are passed over, as the C library does.
    pub(crate) fn parse(passwd: &str, group: &str, shadow: &str) -> Self {
        let mut users: Vec<User> = passwd.lines().filter_map(parse_user).collect();
        for line in shadow.lines() {
            let mut fields = line.split(':');
            let (name, password) = (fields.next(), fields.next());
            if let Some(user) = users.iter_mut().find(|user| Some(user.name.as_str()) == name) {
                user.password = password.map(str::to_owned);
            }
        }
        Self { users, groups: group.lines().filter_map(parse_group).collect() }
    }

    /// The user of this name.
    pub(crate) fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    /// The group of this name.
    pub(crate) fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// The number of an owner given by name or number.
    pub(crate) fn uid(&self, owner: &str) -> Result<u32> {
        let missing = || OpError::Missing(format!("there is no user `{owner}` on the machine"));
        owner.parse().ok().or_else(|| self.user(owner).map(|user| user.uid)).ok_or_else(missing)
    }

    /// The number of a group given by name or number.
    pub(crate) fn gid(&self, group: &str) -> Result<u32> {
        let missing = || OpError::Missing(format!("there is no group `{group}` on the machine"));
        group.parse().ok().or_else(|| self.group(group).map(|group| group.gid)).ok_or_else(missing)
    }

    /// The name of a user's number, or the number.
    pub(crate) fn user_name(&self, uid: u32) -> String {
        let user = self.users.iter().find(|user| user.uid == uid);
        user.map_or_else(|| uid.to_string(), |user| user.name.clone())
    }

    /// The name of a group's number, or the number.
    pub(crate) fn group_name(&self, gid: u32) -> String {
        let group = self.groups.iter().find(|group| group.gid == gid);
        group.map_or_else(|| gid.to_string(), |group| group.name.clone())
    }

    /// The supplementary groups of a user, sorted.
    pub(crate) fn groups_of(&self, user: &str) -> Vec<String> {
        let member = |group: &&Group| group.members.iter().any(|member| member == user);
        let mut names: Vec<String> =
            self.groups.iter().filter(member).map(|group| group.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// What a command needs to run as a user.
    pub(crate) fn identity(&self, name: &str) -> Result<Identity> {
        let missing = || OpError::Missing(format!("there is no user `{name}` on the machine"));
        let user = self.user(name).ok_or_else(missing)?;
        let groups =
            self.groups_of(name).into_iter().filter_map(|group| self.group(&group)).map(|group| group.gid);
        let (name, home) = (user.name.clone(), user.home.clone());
        Ok(Identity { name, home, uid: user.uid, gid: user.gid, groups: groups.collect() })
    }

    /// Where a user's home is.
    pub(crate) fn home(&self, name: &str) -> Result<(Utf8PathBuf, &User)> {
        let missing = || OpError::Missing(format!("there is no user `{name}` on the machine"));
        let user = self.user(name).ok_or_else(missing)?;
        if !Utf8Path::new(&user.home).is_absolute() {
            return Err(OpError::wrong(format!("the user `{name}` has no home directory")));
        }
        Ok((user.home.clone().into(), user))
    }

    /// A number that no account has, for one that is only predicted.
    pub(crate) fn predicted_id(&self) -> u32 {
        let taken = self.users.iter().map(|user| user.uid).chain(self.groups.iter().map(|group| group.gid));
        taken.filter(|id| (PREDICTED..PREDICTED + 100_000).contains(id)).max().map_or(PREDICTED, |id| id + 1)
    }
}

fn parse_user(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, comment, home, shell] = fields[..] else { return None };
    Some(User {
        name: name.to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        comment: comment.to_owned(),
        home: home.to_owned(),
        shell: shell.to_owned(),
        password: None,
    })
}

fn parse_group(line: &str) -> Option<Group> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, gid, members] = fields[..] else { return None };
    let members = members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect();
    Some(Group { name: name.to_owned(), gid: gid.parse().ok()?, members })
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts::parse(
            "root:x:0:0:root:/root:/bin/bash\n# odd\nweb:x:100:101:W,,,:/srv/web:/bin/false\n",
            "root:x:0:\nweb:x:101:\ntls:x:102:web,root\n",
            "root:*:1:::::\nweb:!:19000:0:99999:7:::\n",
        )
    }

    #[test]
    fn names_numbers_and_groups() {
        let accounts = accounts();
        assert_eq!(accounts.users.len(), 2);
        assert_eq!(accounts.uid("web").unwrap(), 100);
        assert_eq!(accounts.uid("7").unwrap(), 7);
        assert!(matches!(accounts.uid("nobody"), Err(OpError::Missing(_))));
        assert_eq!(accounts.gid("tls").unwrap(), 102);
        assert_eq!(accounts.user_name(100), "web");
        assert_eq!(accounts.group_name(55), "55");
        assert_eq!(accounts.groups_of("web"), ["tls"]);
        assert_eq!(accounts.user("web").unwrap().password.as_deref(), Some("!"));
    }

    #[test]
    fn a_command_runs_with_the_users_groups_only() {
        let switch = accounts().identity("web").unwrap().switch();
        assert_eq!(switch, ["setpriv", "--reuid=100", "--regid=101", "--groups=102", "--"]);
    }
}
