//! Between olbake and moto: writes down what is asked, and does to chosen questions what networks do.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    /// In lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What happens to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is answered.
    None,
    /// It is done, and the answer is lost.
    AnswerLost,
    /// It never arrives.
    Lost,
    /// It is refused with this status, and a code in S3's form.
    Refused(u16, &'static str),
}

type Decide = Box<dyn FnMut(&Asked) -> Fault + Send>;

/// A wire that ends with the test program.
pub(crate) struct Wire {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    decide: Arc<Mutex<Decide>>,
}

impl Wire {
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let decide: Arc<Mutex<Decide>> = Arc::new(Mutex::new(Box::new(|_| Fault::None)));
        let wire = Self {
            port: listener.local_addr().unwrap().port(),
            asked: asked.clone(),
            decide: decide.clone(),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (asked, decide) = (asked.clone(), decide.clone());
                std::thread::spawn(move || drop(serve(&stream, port, &asked, &decide)));
            }
        });
        wire
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Says what happens from now on.
    pub(crate) fn decide(&self, decide: impl FnMut(&Asked) -> Fault + Send + 'static) {
        *self.decide.lock().unwrap() = Box::new(decide);
    }

    /// What was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn serve(
    stream: &TcpStream,
    port: u16,
    all: &Mutex<Vec<Asked>>,
    decide: &Mutex<Decide>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some((head, asked)) = read(&mut reader)? {
        let fault = (decide.lock().unwrap())(&asked);
        all.lock().unwrap().push(asked.clone());
        let answer = match fault {
            Fault::Lost => return stream.shutdown(Shutdown::Both),
            Fault::Refused(status, code) => refusal(&asked.path, status, code),
            Fault::None | Fault::AnswerLost => forward(port, &head, &asked.body)?,
        };
        if fault == Fault::AnswerLost {
            return stream.shutdown(Shutdown::Both);
        }
        let mut writer = stream;
        writer.write_all(&answer)?;
        if matches!(fault, Fault::None) {
            // The answer of moto ends with its connection.
            return stream.shutdown(Shutdown::Both);
        }
    }
    Ok(())
}

/// In the form of the service: EBS speaks JSON, S3 XML.
fn refusal(path: &str, status: u16, code: &str) -> Vec<u8> {
    let (kind, body) = match path.starts_with("/snapshots") {
        true => ("application/json", "{\"Message\":\"as told\"}".to_owned()),
        false => ("application/xml", format!("<Error><Code>{code}</Code><Message>as told</Message></Error>")),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nx-amzn-errortype: {code}");
    format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

fn read(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Option<(String, Asked)>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let mut words = lines[0].split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let headers: Vec<(String, String)> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().unwrap())];
    reader.read_exact(&mut body)?;
    lines.retain(|line| !line.to_lowercase().starts_with("connection:"));
    lines.push("connection: close".to_owned());
    Ok(Some((lines.join("\r\n") + "\r\n\r\n", Asked { method, path, headers, body })))
}

fn forward(port: u16, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut moto = TcpStream::connect(("127.0.0.1", port))?;
    moto.write_all(head.as_bytes())?;
    moto.write_all(body)?;
    let mut answer = Vec::new();
    moto.read_to_end(&mut answer)?;
    Ok(answer)
}
