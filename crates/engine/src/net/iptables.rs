//! Unlocks connections that criu has locked with iptables(8), as it does by default: one rule for each direction, at the
//! head of the chains INPUT and OUTPUT. Where there are such rules there was that program, and it takes them away again;
//! cryopod itself locks with nf_tables and needs no program.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::address::on_the_wire;
use super::lock::Connection;
use super::nftables::MARK;

/// Deletes the rules for connections whose first end is ours. What cannot be deleted is only told: the rules may be those
/// of another machine.
pub fn unlock(connections: &[Connection]) {
    for &(local, peer) in connections {
        let (local, peer) = (on_the_wire(local), on_the_wire(peer));
        for (chain, from, to) in [("INPUT", peer, local), ("OUTPUT", local, peer)] {
            delete(chain, from, to);
        }
    }
}

fn delete(chain: &str, from: SocketAddr, to: SocketAddr) {
    let program = if from.is_ipv4() {
        "iptables"
    } else {
        "ip6tables"
    };
    let deleted = Command::new(program)
        .args(["-w", "-t", "filter", "-D", chain])
        .args(rule(from, to))
        .stdin(Stdio::null())
        .output();
    match deleted {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            tracing::warn!(chain, %from, %to, words, "{program} could not unlock a connection");
        }
        Err(error) => {
            tracing::warn!(chain, %from, %to, %error, "{program} could not unlock a connection");
        }
    }
}

/// The rule as criu makes it.
fn rule(from: SocketAddr, to: SocketAddr) -> Vec<String> {
    let words = format!(
        "--protocol tcp -m mark ! --mark {MARK:#X} --source {} --sport {} --destination {} --dport {} -j DROP",
        from.ip(),
        from.port(),
        to.ip(),
        to.port(),
    );
    words.split(' ').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_those_of_criu() {
        let rule = rule(
            "10.0.0.1:80".parse().unwrap(),
            "10.0.0.2:5000".parse().unwrap(),
        );
        assert_eq!(
            rule.join(" "),
            "--protocol tcp -m mark ! --mark 0xC114 --source 10.0.0.1 --sport 80 --destination 10.0.0.2 --dport 5000 \
             -j DROP"
        );
    }
}
