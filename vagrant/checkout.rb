# What is copied to the machines: this checkout and what vagrant/stage.sh gathered, as one archive. One upload needs neither
# guest additions nor rsync nor NFS, and works from Windows: a line's end is made "\n" again where git had made it "\r\n".
require "digest"
require "find"
require "fileutils"
require "rubygems/package"
require_relative "machines"

module Checkout
  ROOT = File.expand_path("..", __dir__)
  ARCHIVE = File.join(Machines::DATA, "checkout.tar")
  PARTS = %w[.ci dev pyproject.toml README.md minicontainer miniecs images vagrant].freeze
  LEAVE = %r{/(__pycache__|\.vagrant)(/|\z)|/\.mypy_cache}.freeze
  TEXT = /\.(sh|py|rb|toml|yaml|md|txt)\z|\/(dev|run|Dockerfile|Vagrantfile|\.\w+)\z/.freeze

  COPYING = %w[up provision reload].freeze # the commands that copy it

  module_function

  # What Vagrant shall copy. Other commands want a file that is there, and need no archive.
  def source(arguments)
    COPYING.include?(Machines.command(arguments)) ? archive : File.join(__dir__, "nodes.yaml")
  end

  # The path of the archive; it is written anew only when a file of the checkout has changed.
  def archive
    files = PARTS.flat_map { |part| files_of(File.join(ROOT, part)) }.sort
    print = Digest::SHA256.hexdigest(files.map { |file| [file, File.mtime(file).to_r, File.size(file)].join(" ") }.join("\n"))
    mark = "#{ARCHIVE}.print"
    return ARCHIVE if File.exist?(ARCHIVE) && File.exist?(mark) && File.read(mark) == print

    FileUtils.mkdir_p(File.dirname(ARCHIVE))
    write(files, "#{ARCHIVE}.new")
    File.rename("#{ARCHIVE}.new", ARCHIVE)
    File.write(mark, print)
    ARCHIVE
  end

  def files_of(part)
    return [] unless File.exist?(part)

    Find.find(part).select { |file| File.file?(file) && !file.match?(LEAVE) }
  end

  def write(files, path)
    File.open(path, "wb", 0o600) do |out| # the join token is in it
      Gem::Package::TarWriter.new(out) do |tar|
        files.each do |file|
          content = File.binread(file)
          content = content.gsub("\r\n", "\n") if file.match?(TEXT)
          tar.add_file_simple(file.delete_prefix("#{ROOT}/"), mode_of(file, content), content.bytesize) { |entry| entry.write(content) }
        end
      end
    end
  end

  # Windows has no executable bit: a file that says its interpreter has it.
  def mode_of(file, content)
    return 0o600 if File.basename(file) == ".join-token"

    content.start_with?("#!") ? 0o755 : 0o644
  end
end
