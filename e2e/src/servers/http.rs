//! As much of HTTP/1.1 as it takes to ask one thing after the other over one connection.

use super::connection::Connection;
use super::load::Trouble;

/// Asks for a path and gives the body of the answer, which must be one of success.
pub fn get(connection: &mut Connection, path: &str) -> Result<String, Trouble> {
    request(connection, "GET", path, "")
}

/// Sends a body to a path.
pub fn put(connection: &mut Connection, path: &str, body: &str) -> Result<String, Trouble> {
    request(connection, "PUT", path, body)
}

fn request(
    connection: &mut Connection,
    method: &str,
    path: &str,
    body: &str,
) -> Result<String, Trouble> {
    let size = body.len();
    connection.send(&format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n{body}"
    ))?;
    let status = connection.line()?;
    if status != "HTTP/1.1 200 OK" {
        return Err(Trouble::wrong("200 OK", status));
    }
    let mut size = 0;
    loop {
        let line = connection.line()?.to_ascii_lowercase();
        match line.split_once(": ") {
            None if line.is_empty() => return connection.text(size),
            Some(("content-length", value)) => {
                size = value
                    .parse()
                    .map_err(|_| Trouble::wrong("a length", value))?;
            }
            _ => {}
        }
    }
}
