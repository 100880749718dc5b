//! Transcript of a real engine (20.10) with links: what it printed to each command, tunbridge prints.
//!
//! As in `golden`, differences from the transcript have a comment and a line in `docs/parity.md`.

use crate::docker::{with_each_client, with_each_client_and_dns};
use crate::lab::server_command;

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn links_on_the_default_bridge() {
    with_each_client_and_dns(&[], |docker| {
        let tunbridge = docker.tunbridge;
        let server = server_command(&["5432"]);
        let server: Vec<&str> = server.iter().map(String::as_str).collect();
        tunbridge
            .run(
                "db",
                &words("-e POSTGRES_USER=u1 -e PATH=/bin:/usr/bin --expose 5432 --expose 53/udp -p 8100:9000"),
                &server,
            )
            .wait_until_it_serves(5432);
        tunbridge.container_with("app", &words("--link db:database --link db"));
        // The first port is a TCP port, as in later engines (`udp://172.17.0.2:53` in the transcript).
        docker.prints(
            "environment app | grep -E '^(DATABASE|DB)_' | LC_ALL=C sort",
            "DATABASE_ENV_POSTGRES_USER=u1
DATABASE_NAME=/app/database
DATABASE_PORT=tcp://172.17.0.2:5432
DATABASE_PORT_53_UDP=udp://172.17.0.2:53
DATABASE_PORT_53_UDP_ADDR=172.17.0.2
DATABASE_PORT_53_UDP_PORT=53
DATABASE_PORT_53_UDP_PROTO=udp
DATABASE_PORT_5432_TCP=tcp://172.17.0.2:5432
DATABASE_PORT_5432_TCP_ADDR=172.17.0.2
DATABASE_PORT_5432_TCP_PORT=5432
DATABASE_PORT_5432_TCP_PROTO=tcp
DATABASE_PORT_9000_TCP=tcp://172.17.0.2:9000
DATABASE_PORT_9000_TCP_ADDR=172.17.0.2
DATABASE_PORT_9000_TCP_PORT=9000
DATABASE_PORT_9000_TCP_PROTO=tcp
DB_ENV_POSTGRES_USER=u1
DB_NAME=/app/db
DB_PORT=tcp://172.17.0.2:5432
DB_PORT_53_UDP=udp://172.17.0.2:53
DB_PORT_53_UDP_ADDR=172.17.0.2
DB_PORT_53_UDP_PORT=53
DB_PORT_53_UDP_PROTO=udp
DB_PORT_5432_TCP=tcp://172.17.0.2:5432
DB_PORT_5432_TCP_ADDR=172.17.0.2
DB_PORT_5432_TCP_PORT=5432
DB_PORT_5432_TCP_PROTO=tcp
DB_PORT_9000_TCP=tcp://172.17.0.2:9000
DB_PORT_9000_TCP_ADDR=172.17.0.2
DB_PORT_9000_TCP_PORT=9000
DB_PORT_9000_TCP_PROTO=tcp
",
        );
        docker.prints(
            "x app cat /etc/hosts; x app grep -v '^#' /etc/resolv.conf",
            "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
172.17.0.2\tdatabase SHORT db
172.17.0.2\tdb SHORT
172.17.0.3\tSHORT

nameserver 192.0.2.9
search wan.example
options timeout:1 attempts:1

",
        );
        docker.prints(
            "peer app tcp database 5432; peer app tcp db 5432",
            "tcp database:5432 client-at=172.17.0.3:PORT -> tcp server-saw=172.17.0.3:PORT server-at=172.17.0.2:5432
tcp db:5432 client-at=172.17.0.3:PORT -> tcp server-saw=172.17.0.3:PORT server-at=172.17.0.2:5432
",
        );
        docker.prints(
            r#"d inspect app --format "{{json .HostConfig.Links}} {{json .NetworkSettings.Networks.bridge.Links}} {{json .NetworkSettings.Networks.bridge.Aliases}}""#,
            "[\"/db:/app/database\",\"/db:/app/db\"] null null\n",
        );

        // The link follows its target.
        docker.prints(
            "d stop -t 0 db >/dev/null; t run -d --name filler -- sleep 1000 >/dev/null; t start db >/dev/null; sleep 0.5; x db ip -o -4 addr show eth0 | awk '{print $4}'; x app tail -3 /etc/hosts; environment app | grep DATABASE_PORT=; peer app tcp database 5432",
            // The variables are those of its start; the transcript's come from a new `exec`.
            "172.17.0.4/16
172.17.0.4\tdatabase SHORT db
172.17.0.4\tdb SHORT
172.17.0.3\tSHORT
DATABASE_PORT=tcp://172.17.0.2:5432
tcp database:5432 client-at=172.17.0.3:PORT -> tcp server-saw=172.17.0.3:PORT server-at=172.17.0.4:5432
",
        );
        docker.prints("d rm --link app/database", "app/database\n");
        let again = docker.session("d rm --link /app/database");
        assert!(again.contains("No such container: app/database"), "{again}");
        docker.prints(
            "t run --rm --link nosuch:x -- true 2>&1 | cut -d: -f1-4",
            "tunbridge: could not get container for nosuch: No such container: nosuch\n",
        );
    });
}

#[test]
fn links_on_a_network_of_ones_own() {
    with_each_client_and_dns(&[], |docker| {
        docker.prints("d network create ln", "ID\n");
        let tunbridge = docker.tunbridge;
        let server = server_command(&["5432"]);
        let server: Vec<&str> = server.iter().map(String::as_str).collect();
        tunbridge
            .run("db2", &words("--network ln"), &server)
            .wait_until_it_serves(5432);
        tunbridge.container_with("app2", &words("--network ln --link db2:database"));
        tunbridge.container_with("other", &words("--network ln"));
        docker.prints(
            "environment app2 | grep -c DATABASE; x app2 tail -1 /etc/hosts; peer app2 tcp database 5432; peer other tcp database 5432 2>&1 | grep -o 'not known'",
            "0
172.18.0.3\tSHORT
tcp database:5432 client-at=172.18.0.3:PORT -> tcp server-saw=172.18.0.3:PORT server-at=172.18.0.2:5432
not known
",
        );
        docker.prints(
            r#"d inspect app2 --format "{{json .HostConfig.Links}} {{json .NetworkSettings.Networks.ln.Links}}""#,
            "null [\"db2:database\"]\n",
        );
        docker.prints("d rm -f $(d ps -aq) >/dev/null; d network rm ln", "ln\n");
    });
}

#[test]
fn links_without_icc() {
    with_each_client(&["--icc=false"], |docker| {
        docker.prints(
            r#"d network inspect bridge --format "{{json .Options}}""#,
            "{\"com.docker.network.bridge.default_bridge\":\"true\",\"com.docker.network.bridge.enable_icc\":\"false\",\"com.docker.network.bridge.enable_ip_masquerade\":\"true\",\"com.docker.network.bridge.host_binding_ipv4\":\"0.0.0.0\",\"com.docker.network.bridge.name\":\"tb0\",\"com.docker.network.driver.mtu\":\"1500\"}\n",
        );
        let tunbridge = docker.tunbridge;
        let server = server_command(&["5432", "5433"]);
        let server: Vec<&str> = server.iter().map(String::as_str).collect();
        tunbridge
            .run("db", &words("--expose 5432"), &server)
            .wait_until_it_serves(5433);
        tunbridge.container_with("app", &words("--link db:database"));
        tunbridge.container("other");
        docker.prints(
            "ping() { x $1 ping -c1 -W1 $2 | grep -o '[0-9] packets transmitted, [0-9].*received'; }; peer app tcp database 5432; peer app tcp database 5433 >/dev/null 2>&1 || echo none; peer other tcp 172.17.0.2 5432 >/dev/null 2>&1 || echo none; ping db 172.17.0.3; ping other 172.17.0.1",
            "tcp database:5432 client-at=172.17.0.3:PORT -> tcp server-saw=172.17.0.3:PORT server-at=172.17.0.2:5432
none
none
1 packets transmitted, 0 received
1 packets transmitted, 1 received
",
        );
        docker.prints("d rm -f app >/dev/null; d rm -f $(d ps -aq) | wc -l", "2\n");
    });
}
