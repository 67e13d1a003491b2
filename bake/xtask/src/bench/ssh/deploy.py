from pyinfra.operations import apt, files, server, systemd

apt.packages(packages=["procps"])
for n in range(5):
    server.group(group=f"bench-g{n}")
for n in range(5):
    server.user(user=f"bench-u{n}", group=f"bench-g{n}", home="/nonexistent", create_home=False, ensure_home=False, shell="/usr/sbin/nologin")
for n in range(10):
    files.directory(path=f"/etc/bench-{n}", user="root", group=f"bench-g{n % 5}", mode="750")
for n in range(40):
    files.template(src="conf.j2", dest=f"/etc/bench-{n % 10}/{n}.conf", user="root", group=f"bench-g{n % 5}", mode="640", n=n)
for n in range(5):
    files.template(src="unit.j2", dest=f"/etc/systemd/system/bench-{n}.service", mode="644", n=n)
for n in range(5):
    systemd.service(service=f"bench-{n}.service", running=True, enabled=True)
