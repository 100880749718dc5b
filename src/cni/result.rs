//! What an attachment is, in the shape of each version.
//!
//! | version | addresses | interfaces |
//! |---|---|---|
//! | 0.1.0, 0.2.0 | `ip4`, `ip6`, one of each, with its routes | – |
//! | 0.3.0 to 0.4.0 | `ips[]` with `version` | name, mac, sandbox |
//! | 1.0.0 | `ips[]` | the same |
//! | 1.1.0 | `ips[]`; routes with mtu, priority, … | and mtu, socketPath, pciID |

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::error::CniError;
use super::fields::Field;
use super::version::Version;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CniResult {
    pub(super) interfaces: Vec<Interface>,
    pub(super) addresses: Vec<Address>,
    pub(super) routes: Vec<Route>,
    pub(super) dns: Dns,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) mac: String,
    pub(super) mtu: Option<u64>,
    /// Path of its namespace; of the host's interfaces none.
    pub(super) sandbox: String,
    pub(super) socket_path: String,
    pub(super) pci_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) address: IpNet,
    pub(super) gateway: Option<IpAddr>,
    /// Index among the interfaces.
    pub(super) interface: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) destination: IpNet,
    pub(super) gateway: Option<IpAddr>,
    pub(super) mtu: Option<u32>,
    pub(super) advmss: Option<u32>,
    pub(super) priority: Option<u32>,
    pub(super) table: Option<u32>,
    pub(super) scope: Option<u32>,
}

impl Route {
    pub(super) fn new(destination: IpNet, gateway: Option<IpAddr>) -> Self {
        Self {
            destination,
            gateway,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }

    /// Everywhere, in the table that is looked at without further rules.
    pub(super) fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0 && self.table.is_none_or(|table| table == 254)
    }

    pub(super) fn read(field: &Field<'_>) -> Result<Self, CniError> {
        let number = |key: &str| -> Result<Option<u32>, CniError> {
            let Some(field) = field.get(key) else {
                return Ok(None);
            };
            let number = field.number()?;
            let number = u32::try_from(number).map_err(|_| field.wrong("give less than 2^32"))?;
            Ok(Some(number))
        };
        let destination = field.get("dst");
        let destination: IpNet = destination
            .ok_or_else(|| field.wrong("a route needs \"dst\""))?
            .parsed("a CIDR block such as 10.1.0.0/16")?;
        Ok(Self {
            destination: destination.trunc(),
            gateway: field.parsed_of("gw", "an IP address")?,
            mtu: number("mtu")?,
            advmss: number("advmss")?,
            priority: number("priority")?,
            table: number("table")?,
            scope: number("scope")?,
        })
    }

    fn render(&self, version: Version) -> Value {
        let mut route = Map::new();
        route.insert("dst".to_owned(), self.destination.to_string().into());
        if let Some(gateway) = self.gateway {
            route.insert("gw".to_owned(), gateway.to_string().into());
        }
        let newer = [
            ("mtu", self.mtu),
            ("advmss", self.advmss),
            ("priority", self.priority),
            ("table", self.table),
            ("scope", self.scope),
        ];
        for (key, value) in newer.into_iter().filter(|_| version >= Version::V1_1_0) {
            if let Some(value) = value {
                route.insert(key.to_owned(), value.into());
            }
        }
        route.into()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dns {
    pub(super) nameservers: Vec<String>,
    pub(super) domain: String,
    pub(super) search: Vec<String>,
    pub(super) options: Vec<String>,
}

impl Dns {
    pub(super) fn read(field: &Field<'_>) -> Result<Self, CniError> {
        Ok(Self {
            nameservers: field.texts_of("nameservers")?,
            domain: field.text_of("domain")?.unwrap_or_default().to_owned(),
            search: field.texts_of("search")?,
            options: field.texts_of("options")?,
        })
    }

    fn render(&self) -> Value {
        let mut dns = Map::new();
        let mut list = |key: &str, list: &[String]| {
            if !list.is_empty() {
                dns.insert(key.to_owned(), list.into());
            }
        };
        list("nameservers", &self.nameservers);
        list("search", &self.search);
        list("options", &self.options);
        if !self.domain.is_empty() {
            dns.insert("domain".to_owned(), self.domain.clone().into());
        }
        dns.into()
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl CniResult {
    /// Reads a result of any version.
    pub(super) fn read(field: &Field<'_>) -> Result<Self, CniError> {
        let field = field.clone().object()?;
        let mut result = Self {
            dns: match field.object_of("dns")? {
                Some(dns) => Dns::read(&dns)?,
                None => Dns::default(),
            },
            ..Self::default()
        };
        for interface in field.elements_of("interfaces")? {
            let text = |key| -> Result<String, CniError> {
                Ok(interface.text_of(key)?.unwrap_or_default().to_owned())
            };
            result.interfaces.push(Interface {
                name: text("name")?,
                mac: text("mac")?,
                mtu: interface.get("mtu").map(|mtu| mtu.number()).transpose()?,
                sandbox: text("sandbox")?,
                socket_path: text("socketPath")?,
                pci_id: text("pciID")?,
            });
        }
        for address in field.elements_of("ips")? {
            let cidr = address.get("address");
            let cidr = cidr.ok_or_else(|| address.wrong("it needs \"address\""))?;
            let index = address.get("interface").filter(|at| at.value != &json!(-1));
            let index = index.map(|at| at.number()).transpose()?;
            result.addresses.push(Address {
                address: cidr.parsed("an address with prefix length such as 10.1.0.2/16")?,
                gateway: address.parsed_of("gateway", "an IP address")?,
                interface: index.and_then(|index| usize::try_from(index).ok()),
            });
        }
        for route in field.elements_of("routes")? {
            result.routes.push(Route::read(&route)?);
        }
        for key in ["ip4", "ip6"] {
            let Some(family) = field.object_of(key)? else {
                continue;
            };
            if let Some(cidr) = family.get("ip") {
                result.addresses.push(Address {
                    address: cidr.parsed("an address with prefix length such as 10.1.0.2/16")?,
                    gateway: family.parsed_of("gateway", "an IP address")?,
                    interface: None,
                });
            }
            for route in family.elements_of("routes")? {
                result.routes.push(Route::read(&route)?);
            }
        }
        Ok(result)
    }

    /// What a plugin in the middle of a chain answers: what others have made, and what it has.
    #[must_use]
    pub(super) fn after(mut self, previous: Self) -> Self {
        let offset = previous.interfaces.len();
        for address in &mut self.addresses {
            address.interface = address.interface.map(|index| index + offset);
        }
        let mut merged = previous;
        merged.interfaces.append(&mut self.interfaces);
        merged.addresses.append(&mut self.addresses);
        for route in self.routes {
            if !merged.routes.contains(&route) {
                merged.routes.push(route);
            }
        }
        if !self.dns.is_empty() {
            merged.dns = self.dns;
        }
        merged
    }

    /// In the shape of `version`.
    pub(super) fn render(&self, version: Version) -> Value {
        let mut answer = Map::new();
        answer.insert("cniVersion".to_owned(), version.text().into());
        if version < Version::V0_3_0 {
            self.render_families(version, &mut answer);
        } else {
            let interfaces = self.interfaces.iter();
            let interfaces: Vec<Value> = interfaces
                .map(|interface| interface.render(version))
                .collect();
            let addresses = self.addresses.iter();
            let addresses: Vec<Value> = addresses.map(|address| address.render(version)).collect();
            let routes = self.routes.iter();
            let routes: Vec<Value> = routes.map(|route| route.render(version)).collect();
            for (key, list) in [
                ("interfaces", interfaces),
                ("ips", addresses),
                ("routes", routes),
            ] {
                if !list.is_empty() {
                    answer.insert(key.to_owned(), list.into());
                }
            }
        }
        answer.insert("dns".to_owned(), self.dns.render());
        answer.into()
    }

    /// The shape before 0.3.0: the first address of each family.
    fn render_families(&self, version: Version, answer: &mut Map<String, Value>) {
        for (key, ipv4) in [("ip4", true), ("ip6", false)] {
            let is_of = |address: IpAddr| address.is_ipv4() == ipv4;
            let mut addresses = self.addresses.iter();
            let Some(address) = addresses.find(|address| is_of(address.address.addr())) else {
                continue;
            };
            let mut family = json!({"ip": address.address.to_string()});
            if let Some(gateway) = address.gateway {
                family["gateway"] = gateway.to_string().into();
            }
            let routes = self.routes.iter();
            let routes = routes.filter(|route| is_of(route.destination.addr()));
            let routes: Vec<Value> = routes.map(|route| route.render(version)).collect();
            if !routes.is_empty() {
                family["routes"] = routes.into();
            }
            answer.insert(key.to_owned(), family);
        }
    }
}

impl Interface {
    fn render(&self, version: Version) -> Value {
        let mut interface = json!({"name": self.name});
        let mut text = |key: &str, value: &str| {
            if !value.is_empty() {
                interface[key] = value.into();
            }
        };
        text("mac", &self.mac);
        text("sandbox", &self.sandbox);
        if version >= Version::V1_1_0 {
            text("socketPath", &self.socket_path);
            text("pciID", &self.pci_id);
            if let Some(mtu) = self.mtu {
                interface["mtu"] = mtu.into();
            }
        }
        interface
    }
}

impl Address {
    fn render(&self, version: Version) -> Value {
        let mut address = Map::new();
        if version < Version::V1_0_0 {
            let family = if self.address.addr().is_ipv4() {
                "4"
            } else {
                "6"
            };
            address.insert("version".to_owned(), family.into());
        }
        if let Some(interface) = self.interface {
            address.insert("interface".to_owned(), interface.into());
        }
        address.insert("address".to_owned(), self.address.to_string().into());
        if let Some(gateway) = self.gateway {
            address.insert("gateway".to_owned(), gateway.to_string().into());
        }
        address.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> CniResult {
        let interface = |name: &str, sandbox: &str| Interface {
            name: name.to_owned(),
            mac: "02:42:ac:11:00:02".to_owned(),
            mtu: Some(1500),
            sandbox: sandbox.to_owned(),
            ..Interface::default()
        };
        CniResult {
            interfaces: vec![interface("tb0", ""), interface("eth0", "/run/netns/x")],
            addresses: vec![
                Address {
                    address: "10.1.0.2/16".parse().unwrap(),
                    gateway: Some("10.1.0.1".parse().unwrap()),
                    interface: Some(1),
                },
                Address {
                    address: "fd00::2/64".parse().unwrap(),
                    gateway: None,
                    interface: Some(1),
                },
            ],
            routes: vec![Route {
                priority: Some(7),
                ..Route::new(
                    "0.0.0.0/0".parse().unwrap(),
                    Some("10.1.0.1".parse().unwrap()),
                )
            }],
            dns: Dns {
                nameservers: vec!["127.0.0.11".to_owned()],
                ..Dns::default()
            },
        }
    }

    #[test]
    fn each_version_has_its_shape() {
        let dns = json!({"nameservers": ["127.0.0.11"]});
        let route = json!({"dst": "0.0.0.0/0", "gw": "10.1.0.1"});
        for version in [Version::V0_1_0, Version::V0_2_0] {
            let expected = json!({
                "cniVersion": version.text(),
                "ip4": {"ip": "10.1.0.2/16", "gateway": "10.1.0.1", "routes": [route]},
                "ip6": {"ip": "fd00::2/64"},
                "dns": dns,
            });
            assert_eq!(result().render(version), expected);
        }
        let interfaces = json!([
            {"name": "tb0", "mac": "02:42:ac:11:00:02"},
            {"name": "eth0", "mac": "02:42:ac:11:00:02", "sandbox": "/run/netns/x"},
        ]);
        for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
            let expected = json!({
                "cniVersion": version.text(),
                "interfaces": interfaces,
                "ips": [
                    {"version": "4", "interface": 1, "address": "10.1.0.2/16", "gateway": "10.1.0.1"},
                    {"version": "6", "interface": 1, "address": "fd00::2/64"},
                ],
                "routes": [route],
                "dns": dns,
            });
            assert_eq!(result().render(version), expected);
        }
        let ips = json!([
            {"interface": 1, "address": "10.1.0.2/16", "gateway": "10.1.0.1"},
            {"interface": 1, "address": "fd00::2/64"},
        ]);
        let expected = json!({
            "cniVersion": "1.0.0", "interfaces": interfaces, "ips": ips, "routes": [route], "dns": dns,
        });
        assert_eq!(result().render(Version::V1_0_0), expected);
        let newest = result().render(Version::V1_1_0);
        assert_eq!(newest["interfaces"][0]["mtu"], 1500);
        assert_eq!(newest["routes"][0]["priority"], 7);
    }

    #[test]
    fn what_was_rendered_can_be_read() {
        for version in Version::ALL {
            let rendered = result().render(version);
            let read = CniResult::read(&Field::new(&rendered, "prevResult")).unwrap();
            assert_eq!(read.render(version), rendered, "{version}");
        }
    }

    #[test]
    fn in_a_chain_indices_move_on() {
        let merged = result().after(result());
        assert_eq!(merged.interfaces.len(), 4);
        assert_eq!(merged.addresses[1].interface, Some(1));
        assert_eq!(merged.addresses[2].interface, Some(3));
        assert_eq!(merged.routes.len(), 1);
    }

    #[test]
    fn a_result_that_is_none_is_refused_by_its_place() {
        for (value, text) in [
            (json!([]), "invalid prevResult []: must be an object"),
            (
                json!({"ips": [{}]}),
                "invalid prevResult.ips[0] {}: it needs \"address\"",
            ),
            (
                json!({"ips": [{"address": "10.0.0.1/33"}]}),
                "invalid prevResult.ips[0].address \"10.0.0.1/33\": give an address with prefix length such as 10.1.0.2/16",
            ),
            (
                json!({"routes": [{"dst": "x"}]}),
                "invalid prevResult.routes[0].dst \"x\": give a CIDR block such as 10.1.0.0/16",
            ),
        ] {
            let error = CniResult::read(&Field::new(&value, "prevResult")).unwrap_err();
            assert_eq!(error.message, text);
        }
    }
}
