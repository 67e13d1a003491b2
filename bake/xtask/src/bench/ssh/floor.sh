set -e
dpkg-query -W procps >/dev/null
for n in 0 1 2 3 4; do
  groupadd "bench-g$n"
  useradd -g "bench-g$n" -d /nonexistent -M -s /usr/sbin/nologin "bench-u$n"
done
tar -x -p -C / -f -
for n in 0 1 2 3 4 5 6 7 8 9; do
  chown -R "root:bench-g$((n % 5))" "/etc/bench-$n"
done
systemctl daemon-reload
systemctl --quiet enable --now bench-0.service bench-1.service bench-2.service bench-3.service bench-4.service
