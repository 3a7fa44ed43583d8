# frozen_string_literal: true

require "csv"
require "digest"
require "json"
require "tasker_core"

# Input files: read with a limit, refused with a reason. No handlers are here.
module Files
  LIMIT_BYTES = 8 * 1024 * 1024
  QUANTITIES = (0..100_000)

  # The codes of refusals that need a person: only a failing disk is worth another attempt.
  REFUSALS = {
    Errno::ENOENT => ["FILE_MISSING", "there is no such file"],
    Errno::ENOTDIR => ["FILE_MISSING", "there is no such file"],
    Errno::EISDIR => ["FILE_NOT_REGULAR", "not a regular file"],
    Errno::EACCES => ["FILE_FORBIDDEN", "this worker may not read it"]
  }.freeze

  module_function

  # The whole file.
  def read_text(path)
    content = File.open(path, "rb") { |file| file.read(LIMIT_BYTES + 1) }.to_s
    raise refused(path, "FILE_TOO_LARGE", "larger than #{LIMIT_BYTES} bytes") if content.bytesize > LIMIT_BYTES

    text = content.force_encoding(Encoding::UTF_8).delete_prefix("\uFEFF")
    text.valid_encoding? ? text : raise(refused(path, "FILE_NOT_TEXT", "not UTF-8 text"))
  rescue SystemCallError => e
    raise refused(path, *REFUSALS[e.class]) if REFUSALS.key?(e.class)

    raise TaskerCore::RetryableError.new("#{path}: #{e.message}", error_code: "FILE_UNREADABLE")
  end

  # The file as one JSON document.
  def read_json(path)
    JSON.parse(read_text(path))
  rescue JSON::ParserError => e
    raise malformed(path, e.message)
  end

  # The rows of a table with exactly these columns, none of them empty, each as the block makes it. A row that the block
  # can't make anything of is the file's fault.
  def read_csv(path, columns, &row)
    parse_csv(path, read_text(path), columns, &row)
  end

  # The same, of text that was read already.
  def parse_csv(path, text, columns)
    table = CSV.parse(text, headers: true, skip_blanks: true)
    raise malformed(path, "line 1: the header must be `#{columns.join(",")}`") if table.headers != columns

    table.map do |row|
      fields = row.to_h
      complete = row.size == columns.size && fields.none? { |_, field| field.to_s.empty? }
      raise malformed(path, "a column is missing, empty or one too many: #{row.to_csv.chomp}") unless complete

      yield fields
    rescue ArgumentError => e
      raise malformed(path, "#{e.message}: #{row.to_csv.chomp}")
    end
  rescue CSV::MalformedCSVError => e
    raise malformed(path, e.message)
  end

  # `12.30` as 1230: floats would make a report differ from its recomputation.
  def cents(price)
    whole, fraction = price.match(/\A(\d{1,5})\.(\d{2})\z/)&.captures
    raise ArgumentError, "no price with two decimals, such as 12.30, below 100000.00" if whole.nil?

    (whole.to_i * 100) + fraction.to_i
  end

  # A number of things that are there.
  def quantity(text)
    value = Integer(text, 10)
    QUANTITIES.cover?(value) ? value : raise(ArgumentError, "no number of things: #{text}")
  end

  # The error of a file that does not hold what it should.
  def malformed(path, why)
    refused(path, "FILE_MALFORMED", why)
  end

  def refused(path, code, why)
    TaskerCore::ValidationError.new("#{path}: #{why}", error_code: code)
  end

  # Tells whether two steps saw the same file.
  def fingerprint(text)
    Digest::SHA256.hexdigest(text)
  end
end
