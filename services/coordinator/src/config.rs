//! Settings of a coordinator.
//!
//! Owns the keys, their defaults and what they mean together; reads nothing by itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use mirrormesh_runtime::service::{CommonSettings, Meaning, ServiceSettings};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::raft::{Node, NodeId};

/// Port of the public API where a member's entry does not name one.
const API_PORT: u16 = 7400;

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Id of this coordinator, unique in the mesh, at least 1. Never changed on a data directory.
    pub node_id: u64,
    /// Where the Raft log and the snapshots are kept.
    pub data_dir: PathBuf,
    /// Where the public API is served, `host:port`; port 0 takes a free one.
    pub api_listen: String,
    /// How others reach the public API, `host:port`; empty: the bound address.
    pub api_advertise: String,
    /// Where coordinators and workers are served, `host:port`; port 0 takes a free one.
    pub mesh_listen: String,
    /// How coordinators and workers reach this one, `host:port`; empty: its entry in `initial_members`, or the bound
    /// address.
    pub mesh_advertise: String,
    /// The members of a new mesh, the same list on each of them: `id=host:mesh_port`, or
    /// `id=host:mesh_port/host:api_port` where the public API is not at the same host and port 7400. Used on an empty
    /// data directory only; empty: a mesh of one.
    pub initial_members: Vec<String>,
    /// On an empty data directory, wait until a mesh adds this coordinator (`MeshService.AddMember`).
    pub join: bool,
    /// What every service has.
    #[serde(flatten)]
    pub common: CommonSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node_id: 1,
            data_dir: PathBuf::from("./mirrormesh-data"),
            api_listen: "127.0.0.1:7400".to_owned(),
            api_advertise: String::new(),
            mesh_listen: "127.0.0.1:7401".to_owned(),
            mesh_advertise: String::new(),
            initial_members: Vec::new(),
            join: false,
            common: CommonSettings::default(),
        }
    }
}

impl ServiceSettings for Settings {
    fn common(&self) -> &CommonSettings {
        &self.common
    }

    fn instance(&self) -> String {
        format!("coordinator-{}", self.node_id)
    }

    fn meanings() -> Vec<Meaning> {
        [CommonSettings::MEANINGS, Self::MEANINGS].concat()
    }
}

impl Settings {
    /// What the keys mean that only a coordinator has.
    pub const MEANINGS: &'static [Meaning] = &[
        ("api_advertise", "How others reach the public API, `host:port`; empty: the bound address."),
        ("api_listen", "Where the public API is served, `host:port`; port 0 takes a free one."),
        ("data_dir", "Directory of the Raft log and its snapshots."),
        (
            "initial_members",
            "Members of a new mesh, the same list on each: `id=host:mesh_port`, or \
             `id=host:mesh_port/host:api_port`. Used on an empty data directory only; empty: a mesh of \
             one.",
        ),
        (
            "join",
            "On an empty data directory: waits until a mesh adds this coordinator (`MeshService/AddMember`).",
        ),
        (
            "mesh_advertise",
            "How coordinators and workers reach this one, `host:port`; empty: its entry in \
             `initial_members`, or the bound address.",
        ),
        ("mesh_listen", "Where coordinators and workers are served, `host:port`; port 0 takes a free one."),
        (
            "node_id",
            "Id of this coordinator, unique in the mesh, at least 1. Never change it on a data directory.",
        ),
    ];
}

fn wrong(key: &'static str, problem: impl Into<String>) -> Error {
    Error::Setting { key, problem: problem.into() }
}

impl Settings {
    /// Checks what can be checked before anything is opened.
    pub(crate) fn check(&self) -> Result<BTreeMap<NodeId, Node>, Error> {
        if self.node_id == 0 {
            return Err(wrong("node_id", "must be at least 1"));
        }
        for (key, address) in
            [("api_advertise", &self.api_advertise), ("mesh_advertise", &self.mesh_advertise)]
        {
            if !address.is_empty() {
                host_of(address).ok_or_else(|| wrong(key, format!("{address:?} is not `host:port`")))?;
            }
        }
        let members = self.members()?;
        if self.join && !members.is_empty() {
            return Err(wrong(
                "join",
                "a coordinator either joins a mesh or has `initial_members`, not both",
            ));
        }
        if !members.is_empty() && !members.contains_key(&self.node_id) {
            return Err(wrong(
                "initial_members",
                format!("does not hold this coordinator: add `{}=host:port`, or check node_id", self.node_id),
            ));
        }
        Ok(members)
    }

    fn members(&self) -> Result<BTreeMap<NodeId, Node>, Error> {
        let mut members = BTreeMap::new();
        for text in &self.initial_members {
            let (id, node) = member(text).ok_or_else(|| {
                wrong(
                    "initial_members",
                    format!("{text:?} is not `id=host:mesh_port` or `id=host:mesh_port/host:api_port`"),
                )
            })?;
            if members.insert(id, node).is_some() {
                return Err(wrong("initial_members", format!("holds id {id} twice")));
            }
        }
        Ok(members)
    }

    /// How this coordinator is reached, now that its listeners are bound.
    pub(crate) fn own_node(&self, own: Option<&Node>, mesh: SocketAddr, api: SocketAddr) -> Node {
        let choose =
            |setting: &String, listed: Option<&String>, bound: SocketAddr| match (setting.as_str(), listed) {
                ("", Some(listed)) => listed.clone(),
                ("", None) => reachable(bound).to_string(),
                (setting, _) => setting.to_owned(),
            };
        // A member's entry without an API address says the default port, which a listener may differ from.
        Node {
            mesh_address: choose(&self.mesh_advertise, own.map(|node| &node.mesh_address), mesh),
            api_address: choose(&self.api_advertise, own.map(|node| &node.api_address), api),
        }
    }
}

/// Nobody can connect to "all addresses": without an advertised address only this machine can reach the listener.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let mut address = bound;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// The host of `host:port`, with the brackets of an IPv6 address.
fn host_of(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let port_right = port.parse::<u16>().is_ok_and(|port| port > 0);
    (port_right && !bare.is_empty() && (bare.len() != host.len() || !host.contains(':'))).then_some(host)
}

fn member(text: &str) -> Option<(NodeId, Node)> {
    let (id, addresses) = text.trim().split_once('=')?;
    let id = id.trim().parse::<NodeId>().ok().filter(|id| *id > 0)?;
    let (mesh, api) = match addresses.split_once('/') {
        Some((mesh, api)) => (mesh.trim(), api.trim().to_owned()),
        None => (addresses.trim(), format!("{}:{API_PORT}", host_of(addresses.trim())?)),
    };
    host_of(mesh)?;
    host_of(&api)?;
    Some((id, Node { mesh_address: mesh.to_owned(), api_address: api }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(members: &[&str]) -> Settings {
        Settings {
            initial_members: members.iter().map(|&text| text.to_owned()).collect(),
            ..Settings::default()
        }
    }

    #[test]
    fn members_are_read_with_and_without_an_api_address() {
        let members = settings(&["1=a:7401", "2=b:8401/c:8400", " 3 = [::1]:7401 "]).check().unwrap();
        let node = |mesh: &str, api: &str| Node { mesh_address: mesh.into(), api_address: api.into() };
        assert_eq!(
            members.into_iter().collect::<Vec<_>>(),
            [
                (1, node("a:7401", "a:7400")),
                (2, node("b:8401", "c:8400")),
                (3, node("[::1]:7401", "[::1]:7400"))
            ]
        );
    }

    #[test]
    fn wrong_members_are_refused_with_what_is_wrong() {
        for bad in ["a:7401", "1=a", "1=a:0", "0=a:1", "x=a:1", "1=:1", "1=::1:5", "1=a:1/b"] {
            let error = settings(&[bad]).check().unwrap_err().to_string();
            assert!(error.contains("initial_members") && error.contains(bad), "{bad}: {error}");
        }
        assert!(settings(&["1=a:1", "1=b:1"]).check().unwrap_err().to_string().contains("twice"));
        assert!(
            settings(&["2=a:1"]).check().unwrap_err().to_string().contains("does not hold this coordinator")
        );
        let both = Settings { join: true, ..settings(&["1=a:1"]) };
        assert!(both.check().unwrap_err().to_string().contains("join"));
    }

    #[test]
    fn the_advertised_address_is_the_set_one_then_the_listed_one_then_the_bound_one() {
        let bound = "0.0.0.0:4711".parse().unwrap();
        let listed = Node { mesh_address: "m:1".into(), api_address: "m:2".into() };
        let plain = Settings::default();
        assert_eq!(plain.own_node(None, bound, bound).mesh_address, "127.0.0.1:4711");
        assert_eq!(plain.own_node(Some(&listed), bound, bound), listed);
        let set = Settings { mesh_advertise: "x:9".into(), ..Settings::default() };
        assert_eq!(set.own_node(Some(&listed), bound, bound).mesh_address, "x:9");
    }
}
