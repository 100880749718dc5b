//! The long form of a network that a container is to have: `name=…,alias=…,ip=…`, with the words of Docker's client for
//! what is wrong in it.

use super::types::NetworkAttachment;

/// Between commas; a field in double quotes may have commas.
///
/// # Errors
/// If a quote does not end.
pub fn fields(value: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in value.chars() {
        match (c, fields.last_mut()) {
            ('"', _) => quoted = !quoted,
            (',', _) if !quoted => fields.push(String::new()),
            (c, Some(field)) => field.push(c),
            (_, None) => {}
        }
    }
    if quoted {
        return Err("a double quote is missing".to_owned());
    }
    Ok(fields)
}

/// Puts a field `KEY=VALUE` where it belongs.
///
/// # Errors
/// If there is no such key, or its value is not of that kind.
pub fn put(attachment: &mut NetworkAttachment, key: &str, value: &str) -> Result<(), String> {
    let settings = &mut attachment.settings;
    let (key, value) = (key.trim().to_lowercase(), value.trim());
    let address = |what: &str| format!("invalid {what} address: {value}");
    match key.as_str() {
        "name" => attachment.network = value.to_owned(),
        "alias" => settings.aliases.push(value.to_owned()),
        "ip" => {
            let parsed = value.parse().map_err(|_| address("IPv4"))?;
            settings.ipam_config.ipv4_address = Some(parsed);
        }
        "ip6" => {
            let parsed = value.parse().map_err(|_| address("IPv6"))?;
            settings.ipam_config.ipv6_address = Some(parsed);
        }
        "link-local-ip" => {
            let parsed = value.parse().map_err(|_| address("link-local IP"))?;
            settings.ipam_config.link_local_ips.push(parsed);
        }
        "mac-address" => settings.mac_address = Some(value.to_owned()),
        "driver-opt" => {
            let Some((key, value)) = value.split_once('=') else {
                return Err(
                    "invalid key value pair format in driver options: give driver-opt=KEY=VALUE"
                        .to_owned(),
                );
            };
            settings
                .driver_opts
                .insert(key.trim().to_owned(), value.trim().to_owned());
        }
        "gw-priority" => {
            settings.gw_priority = value.parse().map_err(|_| {
                format!("invalid gw-priority ({value}): invalid syntax: give a whole number")
            })?;
        }
        _ => {
            return Err(format!(
                "invalid field key {key}: use name, alias, ip, ip6, mac-address, driver-opt or gw-priority"
            ));
        }
    }
    Ok(())
}
